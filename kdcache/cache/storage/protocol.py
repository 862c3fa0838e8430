"""What holds a cache's objects, a folder or a bucket, of which the rest of kdcache sees these few
verbs only."""

import shlex
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from kdcache.cache.storage.blocks import Blocks
from kdcache.runtime.files import name_of_temporary

MOST_BYTES = 1 << 30
"""Of an object: a larger one is refused before it is read, whatever it claims to be."""
PROBE = ".probe.tmp"
"""What is written and removed to see whether a place can be written."""
_SCHEME_MARK = "://"


class Entry(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    time: float
    """When it was last written, in seconds since 1970."""


@runtime_checkable
class Storage(Protocol):
    """Objects by relative key, each written once: whole under its name or not at all, never
    changed, never replaced."""

    def publish(self, key: str, data: bytes) -> bool:
        """Store `data` as `key`, durably; return False, having changed nothing, if the key exists
        with other bytes.

        Of equal bytes that are there already True may be returned: they may be what this very call
        had written.

        Raises:
            CacheError: it cannot be written, or whether it was written cannot be found out.
        """

    def get(self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False) -> bytes:
        """Return the bytes of `key`.

        Args:
            key: of the object.
            most: bytes that it may have.
            is_fresh: whether to pass over what this machine keeps of it in memory.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it is there and cannot be read, or has more than `most` bytes.
        """

    def blocks(
        self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False
    ) -> AbstractContextManager[Blocks]:
        """Give the bytes of `key`, to read parts of them to the end of the block; see `get`.

        They stay those of one object, also if it is removed meanwhile. Few are in memory at once.
        """

    def exists(self, key: str) -> bool:
        """Return whether `key` has been published."""

    def stamp(self, key: str) -> Hashable | None:
        """Return what tells this object from others that had this key; None if it is not there."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted, temporary files left out."""

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object under `prefix`, temporary files too, in no order."""

    def remove(self, key: str) -> None:
        """Remove `key`, if it is there.

        Raises:
            CacheError: it cannot be removed.
        """

    def probe(self, *, writes: bool = True) -> None:
        """Check that objects can be written here, each once; nothing is left behind.

        Args:
            writes: whether to try it; else only look what can be seen without changing anything.

        Raises:
            CacheError: they cannot.
        """

    def __str__(self) -> str:
        """Return the path or address."""


def is_address(path: str | Path) -> bool:
    """Return whether `path` is an address `SCHEME://...` rather than a path."""
    return _SCHEME_MARK in str(path)


def removal(place: str) -> str:
    """Return how a message says to remove all that lies at a path or an address."""
    if is_address(place):
        return f"remove all below {place}/"
    return f"remove the folder (rm -r {shlex.quote(place)})"


def lasting_names(names: Iterable[str]) -> list[str]:
    """Return the names of what is to stay, sorted; those of temporary objects are left out."""
    return sorted(name for name in names if not is_temporary(name))


def is_temporary(key: str) -> bool:
    """Return whether an object of this key is one of kdcache's own that was never given its name.

    Other hidden files may be a user's.
    """
    name = key.rpartition("/")[2]
    return name == PROBE or name_of_temporary(name) is not None
