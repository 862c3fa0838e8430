"""A sample as files: the source's own image where it has one, else a PNG, which loses nothing; and the class, or the mask."""

import io
from contextlib import suppress

import numpy as np
from PIL import Image

from kdcache.errors import UnreadableSampleError
from kdcache.sources.images import UNREADABLE, to_mode
from kdcache.sources.masks import encode_mask
from kdcache.sources.protocol import Source, task_of

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "PPM": "ppm", "TIFF": "tif"}
_SIZED = 64  # images that are looked at, to find out how large they are
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def stored_image(source: Source, index: int) -> tuple[str, bytes]:
    """Return the extension and the bytes of a file that decodes to the image of sample `index`.

    Raises:
        UnreadableSampleError: the image cannot be decoded.
    """
    own = getattr(source, "stored", None)
    data = own(index) if own is not None else None
    if data and (extension := _EXTENSIONS.get(_format(data))):
        return extension, data
    image = source.sample(index).image
    out = io.BytesIO()
    (image if image.mode in _PNG_MODES else to_mode(image, "RGB")).save(out, "PNG")
    return "png", out.getvalue()


def stored_target(source: Source, index: int) -> bytes:
    """Return the class index of sample `index` as decimal digits, or its mask as `encode_mask` makes a file of it.

    Raises:
        UnreadableSampleError: the sample cannot be decoded.
    """
    target = source.sample(index).target
    return str(target).encode() if isinstance(target, int) else encode_mask(target)


def mean_image_bytes(source: Source) -> float:
    """Return the mean size of an image file, with that of its mask if it has one, of a few evenly spread over the source."""
    has_masks = task_of(source) == "segmentation"
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(len(source), _SIZED)).astype(int).tolist():
        with suppress(UnreadableSampleError):
            sizes.append(len(stored_image(source, index)[1]) + (len(stored_target(source, index)) if has_masks else 0))
    return float(np.mean(sizes or [0]))


def _format(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return str(image.format)
    except UNREADABLE:
        return ""
