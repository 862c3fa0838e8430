"""The folder of slabs, of copies of tars and of their indexes: files that kdcache can make again.

Only files whose name and trailer are kdcache's own are ever removed, so that a user's files are
safe whatever the folder. Who uses a file holds a shared lock on it, and what is locked is not
removed. Checksums are looked at once by each process that opens a file, and again when its size or
its time of change is another.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from kdcache.cache.file_lock import locked, one_at_a_time
from kdcache.cache.local_file import (
    ELSEWHERE,
    DamagedFileError,
    LocalFile,
    Parts,
    State,
    is_own,
    write_local,
)
from kdcache.errors import CacheError
from kdcache.runtime.console import say
from kdcache.runtime.files import lasting_path, name_of_temporary
from kdcache.runtime.home import home_folder

DEFAULT_LIMIT = 20 * 10**9
"""Bytes that are kept; the least recently used files go first."""
ABANDONED_SECONDS = 86_400
SUBFOLDER = "kdcache-slabs"
"""What is made below a folder that the user names: other files may lie in that one."""
SLAB = "slab"
TAR = "tar"
INDEX = "index"
"""What a file holds, by the end of its name."""
_NAME = re.compile(r"[0-9a-f]{32}\.slab|[0-9a-f]{24}-[0-9]{5,10}-[0-9]{6,10}\.(tar|index)")
_UNLOCKED_SECONDS = 3600.0
"""Where files cannot be locked, one that was used within this time counts as in use."""


class SlabFolder:
    """Where slabs and copies are kept, and how many bytes of them."""

    def __init__(self, path: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        """Take the folder, by default $KDCACHE_HOME/slabs, or ~/.cache/kdcache/slabs.

        Args:
            path: a folder, in which a subfolder of kdcache's own is used; neither need be there
                yet.
            limit: bytes that are kept; what is in use may go beyond.
        """
        folder = path / SUBFOLDER if path else home_folder() / "slabs"
        self.path = lasting_path(folder)
        self.limit = limit
        self._checked: set[State] = set()

    def open(self, name: str, *, is_checked: bool = True, is_told: bool = True) -> LocalFile | None:
        """Return the file `name`, or None if it is not there or damaged.

        Args:
            name: of the file.
            is_checked: whether its content is compared with its checksums.
            is_told: whether a note says that it is damaged.
        """
        try:
            file = LocalFile(self.path / name)
        except DamagedFileError as error:
            if is_told:
                say(f"note: {error}; it is made again")
            return None
        except OSError:
            return None
        if not is_checked or file.state in self._checked:
            return file
        try:
            file.check()
        except DamagedFileError as error:
            file.close()
            if is_told:
                say(f"note: {error}; it is made again")
            return None
        self._checked.add(file.state)
        return file

    def make(self, name: str, size: int, parts: Callable[[], Parts]) -> LocalFile:
        """Return the file `name` of `size` bytes, made from `parts` unless it is there already.

        Of several processes on one machine that ask for it at once, one makes it and the others
        wait.

        Raises:
            CacheError: no room for it.
        """
        file = self._whole(name, size, is_told=False)
        if file is not None:
            return file
        with one_at_a_time(self.path / name):
            # another process may have made it by now; what is damaged still is told here, once
            file = self._whole(name, size, is_told=True)
            if file is None:
                file = self._written(name, parts())
        self.evict()
        return file

    def write(self, name: str, content: bytes, *, evicts: bool = True) -> LocalFile:
        """Return the file `name`, made from `content`, in the place of one that may be there.

        Args:
            name: of the file.
            content: what it holds.
            evicts: whether others make room for it now; small files need not wait for that.

        Raises:
            CacheError: no room for it.
        """
        file = self._written(name, [content])
        if evicts:
            self.evict()
        return file

    def evict(self) -> None:
        """Remove the least recently used files that nobody uses until those left take at most
        `limit` bytes.

        What killed processes left goes too: locks that nobody holds, and files half-made for a day.
        """
        _remove_left_over(self.path)
        entries: list[tuple[float, int, Path]] = []
        total = 0
        for path in _own_files(self.path):
            with suppress(OSError):  # another process evicts too
                status = path.stat()
                entries.append((status.st_atime, status.st_size, path))
                total += status.st_size
        for used, size, path in sorted(entries):
            if total <= self.limit:
                return
            if _removed(path, used):
                total -= size

    def _whole(self, name: str, size: int, *, is_told: bool) -> LocalFile | None:
        file = self.open(name, is_told=is_told)
        if file is None or file.size == size:
            return file
        file.close()
        return None

    def _written(self, name: str, parts: Parts) -> LocalFile:
        path = self.path / name
        write_local(path, parts)
        try:
            file = LocalFile(path)
        except OSError as error:
            raise CacheError(
                f"cannot read {path}, which was just written: {error.strerror or error};"
                f" {ELSEWHERE}"
            ) from error
        self._checked.add(file.state)
        return file


def _own_files(folder: Path) -> Iterator[Path]:
    """Yield the files of the folder that have a name as kdcache gives them; `_removed` looks at
    what is in them."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield folder / entry.name


def _remove_left_over(folder: Path) -> None:
    """Remove locks that nobody holds, and files half-made for a day, of names as kdcache gives
    them."""
    for path in folder.glob(".*.lock"):
        if _NAME.fullmatch(path.name[1:].removesuffix(".lock")):
            with suppress(OSError), locked(path, wait=False):
                pass
    for path in folder.glob(".*.tmp"):
        if _NAME.fullmatch(name_of_temporary(path.name) or ""):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()


def _removed(path: Path, used: float) -> bool:
    """Remove a file, last used at a time, if it is kdcache's own and nobody uses it; return whether
    it is gone."""
    try:
        # for writing: some network file systems lock no others alone
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:  # another user's
        return False
    try:
        if not is_own(descriptor) or _is_in_use(descriptor, used):
            return False
        path.unlink(missing_ok=True)
        return True
    except OSError:  # another user's, in a folder where only owners may remove
        return False
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_in_use(descriptor: int, used: float) -> bool:
    """Return whether another holds a file, last used at a time, after taking it for this process if
    nobody does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return used > time.time() - _UNLOCKED_SECONDS
    return False
