"""What is kept of a unit's tar on this machine."""

import ast
import struct
from typing import Any

import numpy as np
import pytest

from kdcache.cache.formats.image_index import ImageIndex
from kdcache.cache.formats.tar import UnitIndex
from kdcache.sources.tar_reader import Member

TAR = bytes(range(200))


def index() -> ImageIndex:
    targets = [Member("a.cls", 3, 2), None, Member("ü.cls", 90, 1)]
    places = np.array([5, 0, 100]), np.array([20, 0, 40])
    held = UnitIndex(["a", "b c", "ü"], [".jpg", "", ".png"], *places, targets, [])
    return ImageIndex.of(held, TAR, "ab" * 32, (200, 1_700_000_000_000_000_001))


def facts(index: ImageIndex) -> list[Any]:
    rows = range(3)
    samples = [(index.image(row), index.target(row)) for row in rows]
    return [index.sha256, index.stamp, [*index.keys], [*index.extensions], samples]


def test_it_is_read_back_as_it_was_written() -> None:
    again = ImageIndex.from_bytes(index().to_bytes())
    assert facts(again) == facts(index())
    image = again.image(2)
    assert image is not None and image.is_of(TAR[100:140])


def test_any_part_of_it_is_refused() -> None:
    data = index().to_bytes()
    for length in range(len(data)):
        with pytest.raises((ValueError, struct.error)):
            ImageIndex.from_bytes(data[:length])


def test_threads_may_read_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's parser, which reads headers of `.npy`, may fail where several threads use it."""

    def parse(*args: object, **options: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=216, after=41)")

    data = index().to_bytes()
    monkeypatch.setattr(ast, "parse", parse)
    assert facts(ImageIndex.from_bytes(data)) == facts(index())
