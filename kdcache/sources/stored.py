"""A sample's image as a file: the source's own bytes where it has them, else a PNG, which loses nothing."""

import io

from PIL import Image

from kdcache.sources.images import UNREADABLE, to_mode
from kdcache.sources.protocol import Source

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "PPM": "ppm", "TIFF": "tif"}
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


def _format(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return str(image.format)
    except UNREADABLE:
        return ""
