"""What a verification is told, checked before torch, data and teacher are there."""

from typing import Any

from kdcache.cache import Cache
from kdcache.cache.sample_checksums import require_checksums
from kdcache.cache.source import require_data
from kdcache.errors import MismatchError, UsageError
from kdcache.models.specs import check_model
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.sources import check_source
from kdcache.verify.known_teacher import lossy_origin, require_known_teacher


def check_specs(
    cache: Cache,
    *,
    views: int | None,
    contents: bool,
    data: Any,
    teacher: str | None,
    batch_size: BatchSize | None,
    is_placed: bool,
) -> None:
    """Check names, options and ranges, as far as that takes no torch; see `verify_cache`, but for
    `is_placed`: whether it is said where and how a teacher runs.

    Raises:
        KdcacheError: one of them is unknown, or of no use.
    """
    is_used = bool(views or teacher or contents)
    _require_use(views, data, teacher, batch_size, is_used=is_used, is_placed=is_placed)
    if contents:
        require_checksums(cache)
    if is_used:
        require_data(cache, data)
    if isinstance(data, str):
        check_source(data)
    if teacher is not None:
        _require_direct(cache)
        require_known_teacher(cache)
        check_model(teacher, asks_library=False, is_trained=True)


def _require_direct(cache: Cache) -> None:
    """Raise a MismatchError if a cache was recoded from a lossy one."""
    origin = lossy_origin(cache)
    if origin is not None:
        raise MismatchError(
            f"cache {cache} was recoded from {origin}, so that its records are not those of the"
            " teacher alone; verify the cache that it came from"
        )


def _require_use(
    views: int | None,
    data: Any,
    teacher: str | None,
    batch_size: BatchSize | None,
    *,
    is_used: bool,
    is_placed: bool,
) -> None:
    """Raise a UsageError if a setting is out of range, or another one is missing without which it
    does nothing."""
    if views is not None and teacher and views < 1:
        raise UsageError(f"views is {views}; it must be at least 1 to run a teacher on")
    if views is not None and views < 0:
        raise UsageError(f"views is {views}; it must be at least 0")
    if data is not None and not is_used:
        raise UsageError(
            f"data {data} is opened to render views, and none are asked for; give --views N,"
            " --contents or --teacher SPEC too"
        )
    require_batch_size(batch_size)
    if teacher is None and (batch_size is not None or is_placed):
        raise UsageError(
            "--batch-size, --workers, --device and --precision say how a teacher runs; give"
            " --teacher SPEC too"
        )
