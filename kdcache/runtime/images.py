"""How stored bytes become an image, and an image of any mode 8-bit RGB or grey, for every source
alike.

Bytes are opened by a list of formats, each of which Pillow decodes itself: others make it run
another program (EPS) or read what was never meant as an image. The content decides, not the file's
name. EXIF orientation is not applied, as in torchvision's ImageFolder.
"""

import io
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdcache.runtime.file_kinds import kind_of
from kdcache.runtime.files import NotPlainError, plain_bytes
from kdcache.runtime.wording import human_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""Pillow's names of what is opened; JPEG includes MPO, PPM includes PGM and PBM."""
MOST_STORED_PIXELS = 50_000_000
"""Of an image in a cache."""
MOST_STORED_BYTES = 128 << 20
"""Of the file of an image in a cache."""
STORED_FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "ppm": "PPM",
    "pgm": "PPM",
    "tif": "TIFF",
    "tiff": "TIFF",
}
"""The format of an image in a cache, by its extension."""

# of a TIFF: its decoder allocates a whole tile, however small the image is
_TILE_WIDTH = 322
_TILE_HEIGHT = 323
_DECODERS = re.compile(r"/(PIL/(ImageFile|\w+ImagePlugin)|torchvision/io/image)\.py$")
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)


class UndecodableError(ValueError):
    """Bytes that do not become an image; the message is the reason, as a sentence about them."""


def open_image(data: bytes, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Return the image that `data` encodes, not decoded yet, if it is of one of some formats of
    Pillow's.

    Raises:
        UndecodableError: it is no such image, or of more pixels than Pillow takes from strangers.
    """
    try:
        return Image.open(io.BytesIO(data), formats=list(formats))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableError(_what_else(data, formats)) from error
    except Exception as error:  # a damaged header makes Pillow's parsers raise anything
        raise UndecodableError(f"{type(error).__name__}: {error}") from error


def decode_image(data: bytes) -> Image.Image:
    """Return the image that `data` encodes, in its own mode, decoded to the last row.

    Raises:
        UndecodableError: it cannot be decoded.
    """
    return load_image(open_image(data))


def file_bytes(path: str | Path) -> bytes:
    """Return what a sample's file holds.

    Raises:
        UndecodableError: it is no plain file. A pipe would be waited for.
        OSError: it cannot be read.
    """
    try:
        return plain_bytes(path)
    except NotPlainError as error:
        raise UndecodableError(str(error.strerror)) from error


def read_image(path: str | Path) -> Image.Image:
    """Return the image in a file, in its own mode, decoded to the last row.

    Raises:
        UndecodableError: it cannot be decoded, or is no plain file.
        OSError: the file cannot be read.
    """
    return decode_image(file_bytes(path))


def decode_stored(data: bytes, extension: str) -> Image.Image:
    """Return the image that a member of a cache holds, decoded: whoever made the cache may have
    made it up.

    Args:
        data: the member's bytes.
        extension: of its name, which says what it must be.

    Raises:
        UndecodableError: it is of another format, of more than MOST_STORED_PIXELS, or damaged.
    """
    stored_format = STORED_FORMATS.get(extension)
    if stored_format is None:
        raise UndecodableError(
            f"images in a cache are {', '.join(STORED_FORMATS)}, not {extension!r}"
        )
    image = open_image(data, [stored_format])
    if image.format != stored_format:  # Pillow opens MPO as JPEG
        raise UndecodableError(f"it is of format {image.format}, and its name says {extension}")
    if reason := too_large(image):
        raise UndecodableError(reason)
    return load_image(image)


def too_large(image: Image.Image) -> str | None:
    """Return why a cache does not hold an image, which need not be decoded yet, if it is too
    large."""
    width, height = image.size
    tile_width, tile_height = _tile_size(image)
    if tile_width * tile_height > width * height:
        width = tile_width
        height = tile_height
    if width * height <= MOST_STORED_PIXELS:
        return None
    return f"it has {width}x{height} pixels; images in a cache have at most {MOST_STORED_PIXELS:,}"


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of the tiles of a TIFF; (1, 1) without any."""
    if image.format != "TIFF":
        return 1, 1
    tags = getattr(image, "tag_v2", {})
    width = tags.get(_TILE_WIDTH, 1)
    height = tags.get(_TILE_HEIGHT, 1)
    if not isinstance(width, int) or not isinstance(height, int):
        return 1, 1
    return width, height


def too_many_bytes(num_bytes: int) -> str | None:
    """Return why a cache does not hold an image whose file has so many bytes, if it does not."""
    if num_bytes <= MOST_STORED_BYTES:
        return None
    most = human_bytes(MOST_STORED_BYTES)
    return f"its file has {human_bytes(num_bytes)}; those of images in a cache have at most {most}"


def load_image(image: Image.Image) -> Image.Image:
    """Return an image that was opened from bytes in memory, decoded to the last row.

    Raises:
        UndecodableError: it cannot be decoded.
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise UndecodableError(f"{type(error).__name__}: {error}") from error
    if 0 in image.size:
        raise UndecodableError("it has no pixels")
    return image


def is_of_decoding(error: BaseException) -> bool:
    """Return whether an exception says that an image file cannot be decoded, and not that code is
    wrong.

    It does if a decoder raised it: the same exceptions come from a user's own mistakes.
    """
    if isinstance(error, (UndecodableError, UnidentifiedImageError, Image.DecompressionBombError)):
        return True
    if not isinstance(error, _DECODING_ERRORS) or getattr(error, "errno", None) is not None:
        return False
    if "closed file" in str(error) or "[Errno" in str(error):
        return False
    is_of_decoder = False
    for place in traceback.extract_tb(error.__traceback__):
        if place.name == "save":  # an encoder, in the same files
            return False
        if _DECODERS.search(place.filename):
            is_of_decoder = True
    return is_of_decoder


def _what_else(data: bytes, formats: Sequence[str]) -> str:
    """Return what bytes are that are no image of some formats."""
    kind = kind_of(data) or f"a file that begins with {bytes(data[:12])!r}"
    if kind in [f"a {name} image" for name in formats]:
        return f"it begins as {kind} and is damaged"
    return f"it is {kind}; images are {', '.join(formats)}"


def pixel_bytes(image: Image.Image) -> bytes:
    """Return the text `MODE WIDTHxHEIGHT ` and the pixels of an image, row by row."""
    head = f"{image.mode} {image.width}x{image.height} "
    return head.encode() + image.tobytes()


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return `image` in `mode`, RGB or L.

    8-bit images are converted as Pillow does it; an alpha channel is dropped. Deeper ones, which
    Pillow would clip at 255, are scaled to 8 bits first.
    """
    if image.mode == mode:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(image))
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the levels of a 16-bit, 32-bit or float image from 0 to 255.

    16 bits lose the low eight, as in Pillow's reading of 16-bit colour and in torchvision's
    `to_dtype`. Pillow keeps 16-bit PGM in 32-bit integers, but also what is no deeper than 8 bits:
    those are taken as 16-bit only if one is beyond 255. Floats are from 0 to 1, unless one is
    beyond: then from 0 to 255.
    """
    levels: np.ndarray[Any, Any] = np.asarray(image)
    if image.mode == "F":
        levels = np.nan_to_num(levels)
        if levels.max() <= 1:
            levels = np.rint(levels * 255)
        levels = np.clip(levels, 0, 255)
    else:
        levels = np.clip(levels, 0, 65_535)
        if image.mode != "I" or levels.max() > 255:
            levels = np.right_shift(levels, 8)
    return levels.astype(np.uint8, copy=False)
