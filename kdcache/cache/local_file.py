"""Files of the folder of slabs: content that kdcache can make again, with checksums.

A file is its content, a table of checksums, and a trailer:

    content | crc32c of each block of 4 MiB of it, uint32 | magic, bytes of the content, crc32c of
    the table and of the trailer

Who uses a file holds a shared lock on it.
"""

import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import extend as extended_crc
from google_crc32c import value as crc32c

from kdcache.cache.file_lock import has_name
from kdcache.cache.storage.blocks import Blocks
from kdcache.errors import CacheError
from kdcache.runtime.files import whole_file

ELSEWHERE = "give another folder: --slab-dir, or KDCACHE_HOME"
_BLOCK = 1 << 22
_MAGIC = b"kdcache local 1\n"
_TRAILER = struct.Struct("<16sQII")
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
            with suppress(OSError):  # no locks here: see `SlabFolder.evict`
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if not has_name(self._descriptor, path):
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
        checksums = np.frombuffer(table, "<u4").tolist()
        for start, expected in zip(starts, checksums, strict=True):
            num_bytes = min(_BLOCK, self.size - start)
            block = os.pread(self._descriptor, num_bytes, start)
            if crc32c(block) != expected:
                raise DamagedFileError(
                    f"{self.path}: bytes {start} to {start + _BLOCK} differ from their checksum"
                )

    def has_changed(self) -> bool:
        """Return whether the file was written to or cut off since it was opened."""
        return _state(self._descriptor) != self.state

    def read(self) -> bytes:
        """Return the whole content."""
        return Blocks(str(self.path), self._descriptor).read(0, self.size)

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
        # and the worker must not let go of it.
        if os.getpid() == self._process:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        """Close the file of a reader that is no longer needed."""
        try:  # noqa: SIM105 # when Python is taken down, anything may be gone, `suppress` too
            self.close()
        except Exception:
            pass


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
        way_out = ELSEWHERE
        if error.errno in _FULL:
            way_out = f"free some space, or {ELSEWHERE}"
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


def is_own(descriptor: int) -> bool:
    """Return whether a file ends as kdcache ends its files, whatever its content has become."""
    return _end_of(descriptor).startswith(_MAGIC)


def _mark_used(path: Path) -> None:
    """Let the file count as used just now; its time of change stays, by which damage is noticed."""
    with suppress(OSError):  # another user's file can be read all the same
        changed = path.stat().st_mtime_ns
        os.utime(path, ns=(time.time_ns(), changed))


def _state(descriptor: int) -> State:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _end_of(descriptor: int) -> bytes:
    """Return as many of a file's last bytes as a trailer has."""
    length = os.fstat(descriptor).st_size
    return os.pread(descriptor, _TRAILER.size, max(length - _TRAILER.size, 0))


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
    data = _end_of(descriptor)
    if len(data) == _TRAILER.size and data.startswith(_MAGIC):
        _, size, table_crc, _ = _TRAILER.unpack(data)
        num_blocks = -(-size // _BLOCK)
        expected_length = size + 4 * num_blocks + _TRAILER.size
        is_sealed = data == _sealed(size, table_crc)
        if is_sealed and length == expected_length:
            return size, table_crc
    raise DamagedFileError(f"{path} is cut off, or damaged at its end")
