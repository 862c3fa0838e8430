"""Images of every kind: what torchvision's users expect of 8-bit ones, all levels of deeper ones, one error for broken ones."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from image_files import encode, write_tar
from PIL import Image
from torchvision.datasets.folder import pil_loader

from kdcache.errors import UnreadableSampleError
from kdcache.sources import Source, open_source
from kdcache.sources.images import UndecodableError, decode_image, to_mode
from kdcache.views import Batch, ViewDataset, load_recipe

RAMP = np.linspace(0, 65_535, 600).astype(np.uint16).reshape(20, 30)
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RGB = Image.fromarray(COLOUR)


def with_alpha(mode: str) -> Image.Image:
    image = RGB.convert(mode)
    image.putalpha(Image.fromarray(COLOUR[..., 0]))
    return image


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


EIGHT_BITS = {
    "rgb.png": encode(RGB),
    "rgb.jpg": encode(RGB, "jpeg"),
    "progressive.jpg": encode(RGB, "jpeg", progressive=True),
    "lossless.webp": encode(RGB, "webp", lossless=True),
    "rgb.bmp": encode(RGB, "bmp"),
    "rgb.tif": encode(RGB, "tiff"),
    "grey.png": encode(RGB.convert("L")),
    "grey.jpg": encode(RGB.convert("L"), "jpeg"),
    "bilevel.png": encode(RGB.convert("1")),
    "palette.png": encode(RGB.convert("P")),
    "transparent.png": encode(RGB.convert("P"), transparency=3),
    "transparencies.png": encode(RGB.convert("P"), transparency=bytes(range(256))),
    "la.png": encode(with_alpha("L")),
    "rgba.png": encode(with_alpha("RGB")),
    "cmyk.jpg": encode(RGB.convert("CMYK"), "jpeg"),
    "cmyk.tif": encode(RGB.convert("CMYK"), "tiff"),
    "ycbcr.tif": encode(RGB.convert("YCbCr"), "tiff"),
    "turned.jpg": encode(RGB, "jpeg", exif=exif(6)),
    "bad-exif.jpg": encode(RGB, "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200))),
    "short-exif.jpg": encode(RGB, "jpeg", exif=b"Exif\0\0II"),
    "one.png": encode(RGB.crop((0, 0, 1, 1))),
    "one.jpg": encode(RGB.crop((0, 0, 1, 1)).convert("L"), "jpeg"),
}


def sources(tmp_path: Path, name: str, data: bytes) -> list[Source]:
    """Return a folder and a tar that hold one image."""
    path = tmp_path / "images" / "class" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    tar = write_tar(tmp_path / "x.tar", {name: data, f"{name.partition('.')[0]}.cls": b"0"})
    return [open_source(f"imagefolder:{tmp_path}/images"), open_source(f"tars:{tar}")]


def view(source: Source, recipe: str) -> Any:
    batch = ViewDataset(source, load_recipe(recipe), np.array([0]), sizes=[32]).__getitems__([(0, 3)])
    assert isinstance(batch, Batch), batch
    return batch.views[0]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning", "ignore:Corrupt EXIF:UserWarning")
@pytest.mark.parametrize("name", EIGHT_BITS)
def test_pixels_are_those_of_torchvision(tmp_path: Path, name: str) -> None:
    folder, tar = sources(tmp_path, name, EIGHT_BITS[name])
    expected = pil_loader(str(tmp_path / "images" / "class" / name))
    for source in (folder, tar):
        image = to_mode(source.sample(0).image, "RGB")
        assert image.size == expected.size == ((1, 1) if name.startswith("one") else (30, 20))  # turned.jpg is not turned
        assert (np.asarray(image) == np.asarray(expected)).all()
    for recipe in ("imagenet-b1", "eval"):
        views = [view(source, recipe) for source in (folder, tar)]
        assert (views[0] == views[1]).all()


def png16(levels: np.ndarray[Any, Any], colour_type: int) -> bytes:
    """Write a 16-bit PNG, `[h, w, channels]`; Pillow writes grey ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEEP = {
    "grey.png": png16(RAMP[..., None], 0),
    "colour.png": png16(np.stack([RAMP] * 3, -1), 2),
    "grey-alpha.png": png16(np.stack([RAMP] * 2, -1), 4),
    "grey.tif": encode(Image.fromarray(RAMP), "tiff"),
    "big-endian.tif": encode(Image.frombytes("I;16B", (30, 20), RAMP.astype(">u2").tobytes()), "tiff"),
    "int32.tif": encode(Image.fromarray(RAMP.astype(np.int32)), "tiff"),
    "grey.pgm": b"P5\n30 20\n65535\n" + RAMP.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", DEEP)
def test_sixteen_bits_keep_all_their_levels(tmp_path: Path, name: str) -> None:
    for source in sources(tmp_path, name, DEEP[name]):
        for mode in ("RGB", "L"):
            pixels = np.asarray(to_mode(source.sample(0).image, mode))
            assert (pixels.reshape(20, 30, -1) == (RAMP >> 8)[..., None]).all()


def test_floats_are_from_zero_to_one_or_to_255(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    for scale in (1, 255):
        for source in sources(tmp_path / str(scale), "float.tif", encode(Image.fromarray(ramp * scale), "tiff")):
            expected = np.rint(ramp * 255) if scale == 1 else np.floor(ramp * 255)  # the latter as Pillow does it
            assert (np.asarray(to_mode(source.sample(0).image, "L")) == expected).all()


def test_numbers_that_are_none_and_out_of_range_stay_in_range() -> None:
    odd = Image.fromarray(np.array([[np.nan, -np.inf, np.inf, -5, 300, 20]], np.float32))
    assert np.asarray(to_mode(odd, "L")).tolist() == [[0, 0, 255, 0, 255, 20]]
    wide = Image.fromarray(np.array([[-(2**31), -1, 0, 255, 2**31 - 1]], np.int32))
    assert np.asarray(to_mode(wide, "L")).tolist() == [[0, 0, 0, 0, 255]]


def test_eight_bits_in_wide_integers_stay_as_they_are() -> None:
    levels = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert (np.asarray(to_mode(Image.fromarray(levels), "L")) == levels).all()


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2)))
def test_any_sixteen_bit_image_is_shifted(levels: np.ndarray[Any, Any]) -> None:
    assert (np.asarray(to_mode(Image.fromarray(levels), "L")) == levels >> 8).all()


def test_an_image_of_the_right_mode_is_not_copied() -> None:
    assert to_mode(RGB, "RGB") is RGB


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "lossless.webp", "rgb.tif", "rgb.bmp"])
def test_an_image_that_is_cut_short_is_unreadable(tmp_path: Path, name: str) -> None:
    for source in sources(tmp_path, name, EIGHT_BITS[name][: len(EIGHT_BITS[name]) // 2]):
        with pytest.raises(UnreadableSampleError, match=rf"sample 0 \(\w+/{name.partition('.')[0]}.*cannot be read"):
            source.sample(0)


def test_an_image_of_absurd_size_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    for source in sources(tmp_path, "bomb.png", bytes(data)):
        with pytest.raises(UnreadableSampleError, match="DecompressionBombError"):
            source.sample(0)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(EIGHT_BITS)), st.data())
def test_damaged_bytes_are_an_image_or_an_expected_error(name: str, data: st.DataObject) -> None:
    damaged = bytearray(EIGHT_BITS[name])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(damaged))
    except UndecodableError:
        return
    assert to_mode(image, "RGB").size == image.size
