"""Fetching units side by side, in order, without holding more of them than memory has room for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_AT_ONCE = 8
MEMORY = 256 * 2**20
"""Bytes of objects on their way, at most; one is always fetched."""
T = TypeVar("T")
U = TypeVar("U")


def fetched(action: Callable[[T], U], items: Iterable[T], *, num_bytes: int) -> Iterator[U]:
    """Yield `action` of each item, in order, while those that follow are under way in other
    threads.

    Args:
        action: what is done; its first error is raised here, and nothing more is begun.
        items: that it is done to.
        num_bytes: that the largest object has.
    """
    ahead = max(1, min(MOST_AT_ONCE, MEMORY // max(num_bytes, 1)))
    with ThreadPoolExecutor(ahead, "kdcache-fetch") as pool:
        pending: deque[Future[U]] = deque()
        try:
            for item in items:
                if len(pending) == ahead:
                    yield pending.popleft().result()
                pending.append(pool.submit(action, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
