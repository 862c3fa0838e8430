"""Reading twice: a network, a proxy or a memory gives wrong bytes at times.

What is whole must not be called damaged for that.
"""

from collections.abc import Callable
from typing import TypeVar

from kdcache.cache.objects import MOST_BYTES, Objects
from kdcache.errors import DamagedError
from kdcache.tracking import say

T = TypeVar("T")
_MOST_TOLD = 200


def read_twice(read: Callable[[bool], T]) -> T:
    """Return what `read` gives; if it finds damage, it reads once more before that counts.

    It may do so itself with parts of what it reads: what it is certain of is not read again.

    Args:
        read: fetches and checks. It is told whether to fetch past what this machine keeps in memory.

    Raises:
        DamagedError: that of the second time, which says so.
    """
    try:
        return read(False)
    except DamagedError as error:
        if error.is_certain:
            raise
        told = str(error).partition("; ")[0]  # without the way out, which is none
    try:
        found = read(True)
    except DamagedError as error:
        if error.is_certain:
            raise
        certain = type(error)(f"{error}. It was read twice")
        certain.is_certain = True
        raise certain from error
    say(f"note: read again, and right this time: {told[:_MOST_TOLD]}", by_all=True)
    return found


def agreed_bytes(objects: Objects, key: str, *, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of an object that nothing vouches for, read until two times in a row agree.

    Raises:
        FileNotFoundError: there is no such object.
        CacheError: it cannot be read.
        DamagedError: it gives other bytes each time.
    """
    data = objects.get(key, most=most)
    for _ in range(2):
        before, data = data, objects.get(key, most=most, is_fresh=True)
        if data == before:
            return data
    raise DamagedError(f"{objects}/{key} gives other bytes each time it is read; run the same command again")
