"""A sample as files: the source's own image where it has one, else a PNG, which loses nothing; and
the class, or the mask."""

import io
from contextlib import suppress

import numpy as np
from PIL import Image

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.runtime.images import UndecodableError, open_image, to_mode, too_large, too_many_bytes
from kdcache.sources.files import spread_places
from kdcache.sources.protocol import Source, sample_name
from kdcache.targets import StoredTarget, target_kind, task_of

_EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "PPM": "ppm",
    "TIFF": "tif",
}
_SIZED = 64  # images that are looked at, to find out how large they are
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def stored_image(source: Source, index: int) -> tuple[str, bytes]:
    """Return the extension and the bytes of a file that decodes to the image of sample `index`.

    Raises:
        UnreadableSampleError: the image cannot be decoded.
        SourceError: it has more pixels, or bytes, than an image in a cache may have.
    """
    data = _own_file(source, index)
    if data:
        image = _opened(data)
        if image is not None and image.format in _EXTENSIONS:
            _check_size(source, index, too_large(image) or too_many_bytes(len(data)))
            return _EXTENSIONS[image.format], data
    return "png", _png_file(source, index)


def _own_file(source: Source, index: int) -> bytes | None:
    """Return the file that the source decodes the image of a sample from, if it tells."""
    stored = getattr(source, "stored", None)
    if stored is None:
        return None
    data: bytes | None = stored(index)
    return data


def _png_file(source: Source, index: int) -> bytes:
    """Return the image of a sample as a PNG."""
    image = source.sample(index).image
    _check_size(source, index, too_large(image))
    if image.mode not in _PNG_MODES:
        image = to_mode(image, "RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    _check_size(source, index, too_many_bytes(file.tell()))
    return file.getvalue()


def stored_target(source: Source, index: int, *, known: StoredTarget | None = None) -> bytes:
    """Return the file of the target of sample `index`, which is read unless it is `known`.

    Raises:
        UnreadableSampleError: the sample cannot be decoded.
    """
    target = known
    if target is None:
        target = source.sample(index).target
    return target_kind(task_of(source)).encode(target)


def mean_image_bytes(source: Source) -> float:
    """Return the mean size of an image file, with that of its target, of a few evenly spread over
    the source."""
    kind = target_kind(task_of(source))
    sizes = []
    for index in spread_places(len(source), _SIZED):
        with suppress(UnreadableSampleError):
            _, image = stored_image(source, index)
            size = len(image)
            # digits take no more than the block that each file in a tar takes
            if not kind.is_small:
                size += len(stored_target(source, index))
            sizes.append(size)
    return float(np.mean(sizes or [0]))


def _opened(data: bytes) -> Image.Image | None:
    try:
        return open_image(data)
    except UndecodableError:
        return None


def _check_size(source: Source, index: int, reason: str | None) -> None:
    """Raise a SourceError if there is a reason why a cache does not hold the image of a sample."""
    if reason is not None:
        name = sample_name(source.spec, index, source.key(index))
        raise SourceError(
            f"{name}: {reason}; make it smaller, or leave images out of the cache (--no-images)"
        )
