"""The folder of slabs, of copies of tars and of their indexes: files that kdcache can make again.

A file there is its content, a table of checksums, and a trailer:

    content | crc32c of each block of 4 MiB of it, uint32 | magic, bytes of the content, crc32c of
    the table and of the trailer

Only files whose name and trailer are kdcache's own are ever removed, so that a user's files are
safe whatever the folder. Who uses a file holds a shared lock on it, and what is locked is not
removed. Checksums are looked at once by each process that opens a file, and again when its size or
its time of change is another.
"""

import errno
import fcntl
import mmap
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import extend as extended_crc
from google_crc32c import value as crc32c

from kdcache.errors import CacheError
from kdcache.runtime.console import say
from kdcache.runtime.files import name_of_temporary, whole_file
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

_BLOCK = 1 << 22
_MAGIC = b"kdcache local 1\n"
_TRAILER = struct.Struct("<16sQII")
_NAME = re.compile(r"[0-9a-f]{32}\.slab|[0-9a-f]{24}-[0-9]{5,10}-[0-9]{6,10}\.(tar|index)")
_UNLOCKED_SECONDS = 3600.0
"""Where files cannot be locked, one that was used within this time counts as in use."""
_ELSEWHERE = "give another folder: --slab-dir, or KDCACHE_HOME"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Parts = Iterable[bytes | memoryview]
State = tuple[int, int, int]
"""Inode, size and time of change of a file."""


class DamagedFileError(CacheError):
    """A file of the folder that is not what was written; it can be made again."""


class LocalFile:
    """A file of the folder, open, and in use until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open the file, and keep others from removing it.

        Raises:
            FileNotFoundError: it is not there.
            DamagedFileError: it has no trailer, or one that is not its own.
            OSError: it cannot be opened.
        """
        self.path = path
        self._process = os.getpid()
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # no locks here: see `_is_in_use`
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if not _has_name(self._descriptor, path):
                raise FileNotFoundError(f"{path} was removed while it was opened")
            self.state = _state(self._descriptor)
            self.size, self._table_crc = _trailer(self._descriptor, path)
        except BaseException:
            self.close()
            raise
        _mark_used(path)

    def check(self) -> None:
        """Compare the content with its checksums.

        Raises:
            DamagedFileError: a byte differs.
        """
        starts = range(0, self.size, _BLOCK)
        table = os.pread(self._descriptor, 4 * len(starts), self.size)
        if crc32c(table) != self._table_crc:
            raise DamagedFileError(f"{self.path}: its checksums are damaged")
        for start, expected in zip(starts, np.frombuffer(table, "<u4").tolist(), strict=True):
            block = os.pread(self._descriptor, min(_BLOCK, self.size - start), start)
            if crc32c(block) != expected:
                raise DamagedFileError(
                    f"{self.path}: bytes {start} to {start + _BLOCK} differ from their checksum"
                )

    def has_changed(self) -> bool:
        """Return whether the file was written to or cut off since it was opened."""
        return _state(self._descriptor) != self.state

    def read(self) -> bytes:
        """Return the whole content."""
        return os.pread(self._descriptor, self.size, 0)

    def mapped(self, rows: int, width: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the content as a memory map, uint8 `[rows, width]`."""
        content = mmap.mmap(self._descriptor, rows * width, prot=mmap.PROT_READ)
        # no np.memmap: each take from one would go through that class's Python code
        return np.frombuffer(content, np.uint8).reshape(rows, width)

    def close(self) -> None:
        """Close the file; others may then remove it. Closing it again does nothing."""
        if self._descriptor < 0:
            return
        # A loader worker forked meanwhile has the file open too: closing alone would keep the lock,
        # and the worker must not
        # let go of it.
        if os.getpid() == self._process:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        """Close the file of a reader that is no longer needed."""
        if hasattr(self, "_descriptor"):
            self.close()


class SlabFolder:
    """Where slabs and copies are kept, and how many bytes of them."""

    def __init__(self, path: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        """Take the folder, by default $KDCACHE_HOME/slabs, or ~/.cache/kdcache/slabs.

        Args:
            path: a folder, in which a subfolder of kdcache's own is used; neither need be there
                yet.
            limit: bytes that are kept; what is in use may go beyond.
        """
        self.path = path / SUBFOLDER if path else home_folder() / "slabs"
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
        if (file := self._whole(name, size, is_told=False)) is not None:
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
        for path in _own_files(self.path):
            with suppress(OSError):  # another process evicts too
                status = path.stat()
                entries.append((status.st_atime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
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
                f" {_ELSEWHERE}"
            ) from error
        self._checked.add(file.state)
        return file


def write_local(path: Path, parts: Parts) -> None:
    """Write `parts`, one after the other, and their checksums to `path`, which appears whole or not
    at all.

    Raises:
        CacheError: the folder cannot be written or is full.
    """
    size = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # plain writes, not stores to a map: a full disk is then an error instead of a SIGBUS
        with whole_file(path) as file:
            checksums = _Checksums()
            for part in parts:
                file.write(part)
                checksums.add(part)
                size += len(part)
            table = checksums.table()
            file.write(table)
            file.write(_sealed(size, crc32c(table)))
    except OSError as error:
        reason = error.strerror or error
        way_out = f"free some space, or {_ELSEWHERE}" if error.errno in _FULL else _ELSEWHERE
        raise CacheError(f"cannot write {path} (at byte {size}): {reason}; {way_out}") from error


class _Checksums:
    """The crc32c of each block of what is added part by part."""

    def __init__(self) -> None:
        self._values: list[int] = []
        self._filled = _BLOCK  # bytes of the last block that are there

    def add(self, part: bytes | memoryview) -> None:
        view = memoryview(part).cast("B")
        while view:
            if self._filled == _BLOCK:
                self._values.append(0)
                self._filled = 0
            piece = bytes(view[: _BLOCK - self._filled])
            self._values[-1] = extended_crc(self._values[-1], piece)
            self._filled += len(piece)
            view = view[len(piece) :]

    def table(self) -> bytes:
        return np.array(self._values, "<u4").tobytes()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let no other process or thread make the file `path` meanwhile; one that is killed lets go by
    itself.

    Where files cannot be locked they all go on at once: each then makes the file for itself, and
    the last one's stays.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(path.with_name(f".{path.name}.lock")))
        yield


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is there only as long as someone holds it or waits for it.

    Raises:
        OSError: locks are not to be had here, or not `wait` and another holds it.
    """
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                path.unlink(missing_ok=True)  # no locks here: nobody holds it
                raise
            # Only who holds the lock removes the file. Who waited for it meanwhile then holds a
            # file without a name, which
            # others no longer find: so it looks whether the name is still that of its file, and if
            # not begins anew.
            is_named = _has_name(file.fileno(), path)
            try:
                if is_named:
                    yield
                    return
            finally:
                if is_named:
                    with suppress(OSError):
                        path.unlink()
                # closing would not do: a loader worker forked meanwhile has the file open too
                fcntl.flock(file, fcntl.LOCK_UN)


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
            with suppress(OSError), _locked(path, wait=False):
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
        if not _is_own(descriptor) or _is_in_use(descriptor, used):
            return False
        path.unlink(missing_ok=True)
        return True
    except OSError:  # another user's, in a folder where only owners may remove
        return False
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_own(descriptor: int) -> bool:
    """Return whether a file ends as kdcache ends its files, whatever its content has become."""
    size = os.fstat(descriptor).st_size
    trailer = os.pread(descriptor, _TRAILER.size, max(size - _TRAILER.size, 0))
    return trailer.startswith(_MAGIC)


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


def _mark_used(path: Path) -> None:
    """Let the file count as used just now; its time of change stays, by which damage is noticed."""
    with suppress(OSError):  # another user's file can be read all the same
        changed = path.stat().st_mtime_ns
        os.utime(path, ns=(time.time_ns(), changed))


def _has_name(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _state(descriptor: int) -> State:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sealed(size: int, table_crc: int) -> bytes:
    """Return the trailer of a file with a content of `size` bytes."""
    head = _TRAILER.pack(_MAGIC, size, table_crc, 0)[:-4]
    return _TRAILER.pack(_MAGIC, size, table_crc, crc32c(head))


def _trailer(descriptor: int, path: Path) -> tuple[int, int]:
    """Return the size of a file's content, and the crc32c of its table of checksums.

    Raises:
        DamagedFileError: the file does not end with a trailer of its own.
    """
    length = os.fstat(descriptor).st_size
    data = os.pread(descriptor, _TRAILER.size, max(length - _TRAILER.size, 0))
    if len(data) == _TRAILER.size and data.startswith(_MAGIC):
        _, size, table_crc, _ = _TRAILER.unpack(data)
        num_blocks = -(-size // _BLOCK)
        is_sealed = data == _sealed(size, table_crc)
        if is_sealed and length == size + 4 * num_blocks + _TRAILER.size:
            return size, table_crc
    raise DamagedFileError(f"{path} is cut off, or damaged at its end")
