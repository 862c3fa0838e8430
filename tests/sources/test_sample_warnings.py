"""Warnings of Pillow name the sample, and come once for each kind, also from loader workers."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import encode
from PIL import Image

from kdcache.errors import KdcacheWarning
from kdcache.sources import Source, open_source, sample_warnings
from kdcache.sources.sample_warnings import about_sample, heard_warnings
from kdcache.views import ViewDataset, ViewLoader, load_recipe


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_warnings, "_TOLD", set())


@pytest.fixture
def palettes(tmp_path: Path) -> Source:
    """Return images of whose conversion Pillow warns."""
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("P")
    for index in range(8):
        path = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture, transparency=bytes(range(256))))
    return open_source(f"imagefolder:{tmp_path}/images")


def loader(source: Source, workers: int) -> ViewLoader:
    dataset = ViewDataset(source, load_recipe("digits"), np.arange(len(source)), sizes=[8])
    batches = [[(row, 0), (row + 1, 0)] for row in range(0, len(source), 2)]
    return ViewLoader(dataset, batches, workers=workers, pin_memory=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_warning_names_the_first_sample_and_comes_once(palettes: Source, workers: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            assert len(list(loader(palettes, workers))) == 4
    (warning,) = [each for each in told if issubclass(each.category, KdcacheWarning)]
    expected = (
        f"sample 0 (class0/0.png) of {palettes.spec}: Palette images with Transparency expressed in"
        " bytes"
    )
    assert str(warning.message).startswith(expected) and str(warning.message).endswith(
        "; told once"
    )


def test_a_large_image_is_told_once_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    for index, side in enumerate((8, 9, 10, 8)):
        path = tmp_path / "a" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (side, side)).save(path)
    source = open_source(f"imagefolder:{tmp_path}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        list(loader(source, 0))
    (warning,) = told
    assert "sample 0 (a/0.png) of" in str(
        warning.message
    ) and "Image size (64 pixels) exceeds limit" in str(warning.message)


def test_warnings_of_other_threads_and_of_no_sample_are_shown_as_before() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with heard_warnings() as heard, about_sample(lambda: "sample 7"):
            other = threading.Thread(target=warnings.warn, args=("of another",))
            other.start()
            other.join()
            warnings.warn("of size 12", stacklevel=1)
            warnings.warn("of kdcache", KdcacheWarning, stacklevel=1)
        with heard_warnings() as none:
            warnings.warn("of no sample", stacklevel=1)
        warnings.warn("after", stacklevel=1)
    assert [warning.text for warning in heard] == ["sample 7: of size 12"] and heard[
        0
    ].kind == "UserWarning of size #"
    assert not none
    assert [str(warning.message) for warning in shown] == [
        "of another",
        "of kdcache",
        "of no sample",
        "after",
    ]
