"""How stored bytes become an image, and an image of any mode 8-bit RGB or grey, for every source alike.

EXIF orientation is not applied, as in torchvision's ImageFolder.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for an image that it cannot decode."""


def open_image(data: bytes, formats: list[str] | None = None) -> Image.Image:
    """Return the image that `data` encodes, not decoded yet, if it is of one of some formats of Pillow's (by default of any).

    Raises:
        OSError: (or another of UNREADABLE) it is no such image, or of more pixels than Pillow takes from strangers.
    """
    return Image.open(io.BytesIO(data), formats=formats)


def decode_image(data: bytes) -> Image.Image:
    """Return the image that `data` encodes, in its own mode, decoded to the last row.

    Raises:
        OSError: (or another of UNREADABLE) it cannot be decoded.
    """
    image = open_image(data)
    image.load()
    return image


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return `image` in `mode`, RGB or L.

    8-bit images are converted as Pillow does it; an alpha channel is dropped. Deeper ones, which Pillow would clip at 255, are
    scaled to 8 bits first.
    """
    if image.mode == mode:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(image))
    return image.convert(mode)


def _eight_bits(image: Image.Image) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the levels of a 16-bit, 32-bit or float image from 0 to 255.

    16 bits lose the low eight, as in Pillow's reading of 16-bit colour and in torchvision's `to_dtype`. Pillow keeps 16-bit PGM
    in 32-bit integers, but also what is no deeper than 8 bits: those are taken as 16-bit only if one is beyond 255. Floats are
    from 0 to 1, unless one is beyond: then from 0 to 255.
    """
    levels: np.ndarray[Any, Any] = np.asarray(image)
    if image.mode == "F":
        levels = np.nan_to_num(levels)
        levels = np.clip(np.rint(levels * 255) if levels.max() <= 1 else levels, 0, 255)
    else:
        levels = np.clip(levels, 0, 65_535)
        levels = np.right_shift(levels, 0 if image.mode == "I" and levels.max() <= 255 else 8)
    return levels.astype(np.uint8, copy=False)
