"""Attacks by the list of a subset's samples, which lies in a cache as a zarr array."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile.forge import BOMB_BYTES, HUGE, Attack, bomb, change_manifest, many, without_size, zarr

from kdcache.cache.arrays import arrays_digest, publish_arrays
from kdcache.cache.documents.manifest import SAMPLES

NUMBERS = np.arange(3, 9, dtype="<u4")


def _subset(path: Path, arrays: dict[str, Any], **changes: Any) -> None:
    """Turn an honest cache into a subset of the samples that `arrays` list."""
    cache = zarr(path)
    publish_arrays(cache.storage, SAMPLES, arrays)
    table = {"count": len(NUMBERS), "sha256": arrays_digest(arrays), **changes}
    change_manifest(path, lambda document: document.update(samples=table))


def _list(arrays: dict[str, Any]) -> Attack:
    return lambda path: _subset(path, arrays)


def _told(changes: dict[str, Any]) -> Attack:
    return lambda path: _subset(path, {"numbers": NUMBERS}, **changes)


def _file(forge: Callable[[Path], object]) -> Attack:
    def of(path: Path) -> None:
        _subset(path, {"numbers": NUMBERS})
        forge(next(path.glob("samples/*/numbers")))

    return of


def _bomb(numbers: Path, data: bytes, shape: list[int]) -> None:
    document = json.loads((numbers / "zarr.json").read_text())
    (numbers / "zarr.json").write_text(json.dumps({**document, "shape": shape}))
    next(path for path in numbers.glob("c/**/*") if path.is_file()).write_bytes(data)


def _linked(numbers: Path) -> None:
    (numbers / "zarr.json").rename(numbers.parents[3] / "outside")
    (numbers / "zarr.json").symlink_to("../../../../outside")


LISTS: dict[str, dict[str, Any]] = {
    "falling": {"numbers": NUMBERS[::-1].copy()},
    "with_a_number_twice": {"numbers": np.array([3, 4, 4, 5, 6, 7], "<u4")},
    "past_the_end": {"numbers": NUMBERS + np.uint32(12)},
    "far_past_the_end": {"numbers": NUMBERS + np.uint32(1 << 31)},
    "of_floats": {"numbers": np.array([3, 4, 5, 6, 7, np.nan], "<f4")},
    "of_two_axes": {"numbers": NUMBERS.reshape(2, 3)},
    "too_short": {"numbers": NUMBERS[:5]},
    "too_long": {"numbers": np.arange(7, dtype="<u4")},
    "by_another_name": {"rows": NUMBERS},
    "beside_another": {"numbers": NUMBERS[:3], "others": NUMBERS[3:]},
}
many(
    "the list of its samples .* is absent or damaged",
    {f"list_{name}": case for name, case in LISTS.items()},
    _list,
)
FILES: dict[str, Callable[[Path], object]] = {
    "list_bomb_that_says_its_size": lambda numbers: _bomb(numbers, bomb(), [1 << 26]),
    "list_bomb_within_its_shape": lambda numbers: _bomb(numbers, bomb(), [6]),
    "list_bomb_that_does_not_say": lambda numbers: _bomb(numbers, without_size(BOMB_BYTES), [6]),
    "list_huge": lambda numbers: _bomb(numbers, b"", [HUGE]),
    "list_that_is_a_link_out": _linked,
    "list_that_is_gone": lambda numbers: (numbers / "zarr.json").unlink(),
}
many(
    r"the list of its samples .* is absent or damaged|is a link out of|more than the \d+ that it"
    r" may have",
    FILES,
    _file,
)
TOLD: dict[str, dict[str, Any]] = {
    "of_none": {"count": 0},
    "of_all": {"count": 20},
    "of_more_than_there_are": {"count": HUGE},
    "of_true": {"count": True},
    "outside_of_the_root": {"sha256": "../../../../../etc/passwd"},
    "without_a_digest": {"sha256": None},
}
many(
    r"its manifest \(zarr.json\) is damaged: ",
    {f"subset_{name}": case for name, case in TOLD.items()},
    _told,
)
