"""An object as a file that is open: parts of it are read, and little of it is in memory."""

import hashlib
import os

from kdcache.errors import CacheError

_BLOCK = 1 << 20
_MOST_AT_ONCE = 1 << 30
"""Bytes that the system is asked for: macOS refuses 2 GiB."""


class Blocks:
    """The bytes behind a descriptor, which stay readable after the object was removed."""

    def __init__(self, name: str, descriptor: int) -> None:
        """Take an open file.

        Args:
            name: of the object, for messages.
            descriptor: of the file. Whoever opened it closes it.
        """
        self._name = name
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, position: int, size: int) -> bytes:
        """Return bytes of it, fewer where it ends.

        Raises:
            CacheError: they cannot be read.
        """
        parts = []
        try:
            while size:
                part = os.pread(self._descriptor, min(size, _MOST_AT_ONCE), position)
                if not part:
                    break
                parts.append(part)  # a file server may give less than it was asked for
                position += len(part)
                size -= len(part)
        except OSError as error:
            reason = error.strerror or error
            raise CacheError(f"cannot read {self._name}: {reason}") from error
        return b"".join(parts)

    def sha256(self) -> str:
        """Return the digest of all its bytes, of which a block at a time is in memory."""
        digest = hashlib.sha256()
        for position in range(0, self.size, _BLOCK):
            digest.update(self.read(position, _BLOCK))
        return digest.hexdigest()
