"""Images of every kind: what torchvision's users expect of 8-bit ones, all levels of deeper ones,
one error for broken ones."""

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
from PIL import EpsImagePlugin, Image
from torchvision.datasets.folder import pil_loader

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.runtime.images import (
    MOST_STORED_PIXELS,
    UndecodableError,
    decode_image,
    decode_stored,
    to_mode,
)
from kdcache.sources import Source, open_source, stored_image
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
    "bad-exif.jpg": encode(
        RGB, "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200))
    ),
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
    batch = ViewDataset(source, load_recipe(recipe), np.array([0]), sizes=[32]).__getitems__(
        [(0, 3)]
    )
    assert isinstance(batch, Batch), batch
    return batch.views[0]


@pytest.mark.filterwarnings(
    "ignore:Palette images with Transparency:UserWarning", "ignore:Corrupt EXIF:UserWarning"
)
@pytest.mark.parametrize("name", EIGHT_BITS)
def test_pixels_are_those_of_torchvision(tmp_path: Path, name: str) -> None:
    folder, tar = sources(tmp_path, name, EIGHT_BITS[name])
    expected = pil_loader(str(tmp_path / "images" / "class" / name))
    for source in (folder, tar):
        image = to_mode(source.sample(0).image, "RGB")
        assert (
            image.size == expected.size == ((1, 1) if name.startswith("one") else (30, 20))
        )  # turned.jpg is not turned
        assert (np.asarray(image) == np.asarray(expected)).all()
    for recipe in ("imagenet-b1", "eval"):
        views = [view(source, recipe) for source in (folder, tar)]
        assert (views[0] == views[1]).all()


def png16(levels: np.ndarray[Any, Any], colour_type: int) -> bytes:
    """Write a 16-bit PNG, `[h, w, channels]`; Pillow writes grey ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


DEEP = {
    "grey.png": png16(RAMP[..., None], 0),
    "colour.png": png16(np.stack([RAMP] * 3, -1), 2),
    "grey-alpha.png": png16(np.stack([RAMP] * 2, -1), 4),
    "grey.tif": encode(Image.fromarray(RAMP), "tiff"),
    "big-endian.tif": encode(
        Image.frombytes("I;16B", (30, 20), RAMP.astype(">u2").tobytes()), "tiff"
    ),
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
        for source in sources(
            tmp_path / str(scale), "float.tif", encode(Image.fromarray(ramp * scale), "tiff")
        ):
            expected = (
                np.rint(ramp * 255) if scale == 1 else np.floor(ramp * 255)
            )  # the latter as Pillow does it
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
        with pytest.raises(
            UnreadableSampleError, match=rf"sample 0 \(\w+/{name.partition('.')[0]}.*cannot be read"
        ):
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


NOT_TAKEN = {
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n": "a PostScript file",
    b"\xc5\xd0\xd3\xc6" + bytes(60): "a PostScript file",
    b"%PDF-1.7\n": "a PDF",
    b"8BPS\0\1" + bytes(60): "a Photoshop file",
    b"SIMPLE  =                    T": "a FITS file",
    b"\xd7\xcd\xc6\x9a" + bytes(60): "a Windows metafile",
    b"version https://git-lfs.github.com/spec/v1\noid": r"a pointer of git-lfs \(git lfs pull",
    b"<!DOCTYPE html><html>": r"a web page \(a download",
    b"\0\0\0\x20ftypavif" + bytes(60): "an AVIF image",
    b"\0\0\0\x18ftypheic" + bytes(60): "a HEIC image",
    b"": "an empty file",
    bytes(4000): "a file that begins with zero bytes",
    b"what is this": "a file that begins with b'what is this'",
}


@pytest.mark.parametrize("data", NOT_TAKEN, ids=NOT_TAKEN.values())
def test_what_is_no_image_of_the_list_says_what_it_is(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name says: EPS has Pillow run Ghostscript on it."""
    ran: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: ran.append(args))
    for source in sources(tmp_path, "x.png", data):
        with pytest.raises(
            UnreadableSampleError,
            match=rf"sample 0 .* cannot be read: it is {NOT_TAKEN[data]}.*; images are JPEG",
        ):
            source.sample(0)
    assert not ran


@pytest.mark.parametrize("kind", ["jpeg2000", "ico", "pcx", "tga", "sgi", "im", "dds"])
def test_other_formats_of_pillow_are_not_opened(tmp_path: Path, kind: str) -> None:
    data = encode(RGB, kind)
    for source in sources(tmp_path, "x.jpg", data):
        with pytest.raises(
            UnreadableSampleError, match="images are JPEG, PNG, WEBP, BMP, PPM, TIFF, GIF"
        ):
            source.sample(0)


def test_a_name_may_be_that_of_another_format_but_for_a_member_of_a_cache(tmp_path: Path) -> None:
    gif, mpo = (
        encode(RGB.convert("P"), "gif"),
        encode(RGB, "mpo", save_all=True, append_images=[RGB]),
    )
    for name, data in (
        ("x.png", EIGHT_BITS["rgb.jpg"]),
        ("x.jpg", EIGHT_BITS["lossless.webp"]),
        ("x.png", gif),
        ("x.jpg", mpo),
    ):
        for source in sources(tmp_path / name / str(len(data)), name, data):
            assert source.sample(0).image.size == (30, 20)
        with pytest.raises(UndecodableError, match=r"images are|its name says"):
            decode_stored(data, name[2:])


STORED = {
    "jpg": "rgb.jpg",
    "jpeg": "grey.jpg",
    "png": "rgba.png",
    "webp": "lossless.webp",
    "bmp": "rgb.bmp",
    "tif": "rgb.tif",
}


def test_a_member_of_a_cache_is_what_its_extension_says() -> None:
    for extension, name in STORED.items():
        assert (
            np.asarray(decode_stored(EIGHT_BITS[name], extension))
            == np.asarray(decode_image(EIGHT_BITS[name]))
        ).all()
        for other in {"png", "jpg", "tiff", "ppm"} - {
            extension,
            extension + "f",
            extension.replace("e", ""),
        }:
            with pytest.raises(UndecodableError, match=r"^it is .*; images are"):
                decode_stored(EIGHT_BITS[name], other)
    assert decode_stored(DEEP["grey.pgm"], "pgm").size == (30, 20)
    for extension in ("gif", "eps", "", "PNG"):
        with pytest.raises(
            UndecodableError, match=rf"images in a cache are jpg, jpeg, png, .*, not '{extension}'"
        ):
            decode_stored(EIGHT_BITS["rgb.png"], extension)


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG that claims to be that large."""
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_member_of_a_cache_is_measured_before_it_is_decoded() -> None:
    assert MOST_STORED_PIXELS == 50_000_000
    with pytest.raises(
        UndecodableError, match=r"it has 10000x5001 pixels; images .* at most 50,000,000$"
    ):
        decode_stored(huge_png(10_000, 5_001), "png")
    with pytest.raises(UndecodableError, match=r"OSError|SyntaxError"):
        decode_stored(huge_png(10_000, 5_000), "png")
    webp = bytearray(encode(Image.new("RGB", (8, 8)), "webp"))
    at = webp.index(b"\x9d\x01\x2a") + 3
    webp[at : at + 4] = struct.pack("<HH", 8_000, 8_000)
    with pytest.raises(UndecodableError, match=r"it has 8000x8000 pixels"):
        decode_stored(bytes(webp), "webp")


def test_a_tiff_of_a_small_image_in_a_huge_tile_is_not_decoded() -> None:
    entries = {
        256: 10,
        257: 10,
        258: 8,
        259: 1,
        262: 1,
        277: 1,
        322: 30_000,
        323: 30_000,
        324: 8,
        325: 100,
    }
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(104)
    with pytest.raises(UndecodableError, match="it has 30000x30000 pixels"):
        decode_stored(data, "tif")


def test_what_is_stored_is_no_larger_than_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(huge_png(10_000, 5_001))
    source = open_source(f"imagefolder:{tmp_path}")
    with pytest.raises(
        SourceError,
        match=(
            r"sample 0 \(a/x.png\) .*: it has 10000x5001 pixels; images in a cache have .*--no-imag"
        ),
    ):
        stored_image(source, 0)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(STORED)), st.data())
def test_damaged_members_are_an_image_or_an_expected_error(
    extension: str, data: st.DataObject
) -> None:
    damaged = bytearray(EIGHT_BITS[STORED[extension]])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_stored(bytes(damaged), extension)
    except UndecodableError:
        return
    assert image.width * image.height <= MOST_STORED_PIXELS
