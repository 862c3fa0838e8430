"""Reading twice: a network, a proxy or a memory gives wrong bytes at times.

What is whole must not be called damaged for that.
"""

import hashlib
from collections.abc import Callable
from traceback import clear_frames
from typing import TypeVar

from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import MOST_BYTES, Storage
from kdcache.errors import DamagedError
from kdcache.runtime.console import say

T = TypeVar("T")
_MOST_DAMAGE = 200
"""Characters of what was damaged at first, in the note that it is right after all."""


def read_twice(reader: Callable[[bool], T]) -> T:
    """Return what `reader` gives; if it finds damage, it reads once more before that counts.

    It may do so itself with parts of what it reads: what it is certain of is not read again.

    Args:
        reader: fetches and checks. It is told whether to fetch past what this machine keeps in
            memory.

    Raises:
        DamagedError: that of the second time, which says so.
    """
    try:
        return reader(False)
    except DamagedError as error:
        if error.is_certain:
            raise
        damage, _, _ = str(error).partition("; ")  # without the way out, which is none
        _let_go(error)
    try:
        result = reader(True)
    except DamagedError as error:
        if error.is_certain:
            raise
        _let_go(error)
        # no name here for what is raised: its traceback would keep this frame, and the frame it
        raise _certain(error) from error
    say(f"note: read again, and right this time: {damage[:_MOST_DAMAGE]}", by_all=True)
    return result


def _certain(error: DamagedError) -> DamagedError:
    """Return an error that says of another that it was found twice."""
    certain = type(error)(f"{error}. It was read twice")
    certain.is_certain = True
    return certain


def _let_go(error: BaseException) -> None:
    """Drop what was read where an error, and what led to it, was raised: it may be gigabytes."""
    cause: BaseException | None = error
    while cause is not None:
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def agreed_bytes(
    storage: Storage,
    key: str,
    *,
    most: int = MOST_BYTES,
    look: Callable[[Blocks], None] | None = None,
) -> bytes:
    """Return the bytes of an object that nothing vouches for, read until two times in a row agree.

    Args:
        storage: where it is.
        key: of the object.
        most: bytes that it may have.
        look: refuses, by an error, what should not be read into memory.

    Raises:
        FileNotFoundError: there is no such object.
        CacheError: it cannot be read.
        DamagedError: it gives other bytes each time.
    """
    last_digest = ""
    for number in range(3):
        with storage.blocks(key, most=most, is_fresh=number > 0) as blocks:
            digest = blocks.sha256()
            if digest == last_digest:
                if look is not None:
                    look(blocks)
                data = blocks.read(0, blocks.size)
                if hashlib.sha256(data).hexdigest() == digest:
                    return data
        last_digest = digest
    raise DamagedError(
        f"{storage}/{key} gives other bytes each time it is read; run the same command again"
    )
