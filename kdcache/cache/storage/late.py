"""A folder that another machine writes to: what others see may take a while to be seen here.

Network file systems keep lists of folders for some seconds, NFS up to a minute, and also that a
name was not there.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.protocol import Storage
from kdcache.runtime.console import LINE_SECONDS, say
from kdcache.runtime.launch import own_place
from kdcache.runtime.waiting import pause

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for which something is looked for again."""
_LOOK_SECONDS = 1.0


class LateFolder(Folder):
    """Objects in a folder: each that is asked for is there, as another process has seen."""

    def open(self, key: str) -> int:
        """Return a descriptor of the file of `key`, for reading, as soon as it is seen here.

        Raises:
            FileNotFoundError: it is not seen after a while.
            CacheError: it cannot be opened, is no file, or a link out of the folder.
        """
        open_file = super().open
        return looked_for_again(lambda: open_file(key), FileNotFoundError, str(self.path / key))


def late(storage: Storage) -> Storage:
    """Return the same storage, with patience if it is a folder; a bucket is never late."""
    if type(storage) is Folder:
        return LateFolder(str(storage))
    return storage


def looked_for_again(look: Callable[[], T], error_type: type[Exception], what: str) -> T:
    """Return what `look` gives, which raises an error of this type as long as it is not seen here.

    Raises:
        Exception: that of `look`, after a while.
    """
    end = time.monotonic() + PATIENCE
    last_note = -LINE_SECONDS
    while True:
        try:
            return look()
        except error_type:
            time_of_look = time.monotonic()
            if time_of_look > end:
                raise
            if time_of_look - last_note >= LINE_SECONDS:
                last_note = time_of_look
                say(
                    f"note: rank {own_place().rank} does not see {what} yet, and rank 0 does; a"
                    " network file system may take a minute: it is looked for again for"
                    f" {end - time_of_look:.0f} s",
                    by_all=True,
                )
        pause(_LOOK_SECONDS)
