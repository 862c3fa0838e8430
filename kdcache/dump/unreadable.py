"""What a dump says that meets a sample that cannot be read, and does not skip those."""

from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.cache import Cache
from kdcache.cache.storage.protocol import removal
from kdcache.errors import UnreadableSampleError


@contextmanager
def told_to_skip(cache: Cache | None) -> Iterator[None]:
    """Run the block, which reads samples; of one that cannot be read it is also told how to go on
    without it.

    Args:
        cache: that is written; None if there is none yet.

    Raises:
        UnreadableSampleError: the sample.
    """
    try:
        yield
    except UnreadableSampleError as error:
        raise UnreadableSampleError(f"{error}, or {_way_out(cache)}") from error


def _way_out(cache: Cache | None) -> str:
    """Return how to dump without such samples: whether they are skipped is a setting of the whole
    cache."""
    skip = "dump with --skip-unreadable"
    if cache is None:
        return f"{skip} to record it as absent"
    if cache.committed():
        return f"{skip} into a new folder to record it as absent"
    return (
        f"{removal(str(cache))}, which holds no unit yet, if no other dump is at work on it, and"
        f" {skip} to record it as absent"
    )
