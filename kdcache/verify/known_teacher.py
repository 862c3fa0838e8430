"""What a manifest says of the teacher of a cache; told without torch."""

from typing import Any

from kdcache.cache import Cache
from kdcache.codecs import open_codec
from kdcache.config.fields import build
from kdcache.errors import MismatchError, brief
from kdcache.runtime.device import ComputeConfig


def require_known_teacher(cache: Cache) -> None:
    """Check that it is known which teacher a cache was made with.

    Raises:
        MismatchError: the cache was imported.
    """
    origin = cache.manifest.made_by.imported_from
    if origin is not None:
        raise MismatchError(
            f"cache {cache} was imported from labels of format {brief(origin.format)}, which do not"
            " say what their teacher was, so that none can be compared; leave --teacher out"
        )


def lossy_origin(cache: Cache) -> str | None:
    """Return the spec of the codec that `cache` was recoded from if that was lossy: its records are
    not those of a dump."""
    origin = cache.manifest.made_by.recoded_from
    if origin is None:
        return None
    codec = open_codec(origin.codec, classes=cache.manifest.row_width)
    if codec.is_exact:
        return None
    return brief(origin.codec)


def compute_of(cache: Cache, **settings: Any) -> ComputeConfig:
    """Return where and how the teacher of `cache` runs again: in the precision of the dump, but for
    `settings`.

    Raises:
        UsageError: a setting that is unknown, or of the wrong type.
        MismatchError: it is not known which teacher that was.
    """
    require_known_teacher(cache)
    precision = cache.manifest.teacher.precision
    return build(ComputeConfig, {"precision": precision, **settings}, "compute")
