"""Slabs: one seed's records, verified and laid out as a local memory map."""

import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError, MissingUnitError
from kdcache.shapes import Records, Rows

DEFAULT_LIMIT = 20 * 10**9
"""Bytes of slabs kept; the least recently used go first."""
ABANDONED_SECONDS = 86_400


class Slab:
    """One seed's records as a memory map, in row order."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]", absent: Iterable[int]) -> None:
        # a plain view of the map: each take from an np.memmap would go through that class's Python code
        self._raw = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        self._dtype = dtype
        self.absent = np.array(sorted(absent), dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._raw)

    def gather(self, rows: Rows) -> Records:
        """Return the records of `rows`, in their order.

        Raises:
            MissingUnitError: a row whose sample could not be read when the cache was made.
        """
        if len(self.absent) and (hit := np.intersect1d(rows, self.absent)).size:
            raise MissingUnitError(f"row {hit[0]} is recorded as absent (its sample could not be read); leave it out")
        records: Records = self._raw.take(rows, axis=0).view(self._dtype).reshape(len(rows))
        return records


def slab_folder() -> Path:
    """Return where slabs are kept: $KDCACHE_HOME/slabs, by default ~/.cache/kdcache/slabs."""
    return Path(os.environ.get("KDCACHE_HOME") or Path.home() / ".cache" / "kdcache") / "slabs"


def is_whole(path: Path, rows: int, width: int) -> bool:
    """Return whether `path` is a slab of that shape with none of it cut off; it then counts as used just now."""
    try:
        os.utime(path)
        shape: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False
    return shape == (rows, width)


def materialise(path: Path, rows: int, width: int, units: Iterable[Records]) -> None:
    """Write the records of all `units`, in order, to `path`, which appears whole or not at all.

    Raises:
        CacheError: the folder cannot be written or is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # plain writes, not stores to a map: a full disk is then an error instead of a SIGBUS
            with temporary.open("xb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (rows, width)}
                np.lib.format.write_array_header_1_0(file, header)
                for records in units:
                    file.write(np.ascontiguousarray(records).view(np.uint8).data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave the name with zeros behind it
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot write slab {path} ({rows * width} bytes): {error.strerror or error}; "
            "free some space, or set KDCACHE_HOME to a folder with room"
        ) from error


def evict(folder: Path, keep: Path, limit: int = DEFAULT_LIMIT) -> None:
    """Remove the least recently used slabs but `keep` until those left take at most `limit` bytes.

    A process that has one of them mapped keeps reading it. What killed processes left half-made for a day goes too.
    """
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                path.unlink()
    entries = []
    for path in folder.glob("*.npy"):
        with suppress(FileNotFoundError):  # another process evicts too
            entries.append((path.stat(), path))
    entries.sort(key=lambda entry: entry[0].st_mtime)
    total = sum(stat.st_size for stat, _ in entries)
    for stat, path in entries:
        if total <= limit:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= stat.st_size
