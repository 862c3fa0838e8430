"""Slabs: one seed's records, verified and laid out as a local memory map."""

import fcntl
import io
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError, MissingUnitError
from kdcache.home import home_folder
from kdcache.shapes import Records, Rows

DEFAULT_LIMIT = 20 * 10**9
"""Bytes of slabs, and of copies of tars, that are kept; the least recently used go first."""
ABANDONED_SECONDS = 86_400


class Slab:
    """One seed's records as a memory map, in row order."""

    def __init__(
        self,
        path: Path,
        dtype: "np.dtype[Any]",
        *,
        absent: Rows,
        missing: Rows,
        outside: "np.ndarray[Any, np.dtype[np.bool_]] | None" = None,
    ) -> None:
        """Map `path`.

        Args:
            path: the file that `materialise` made.
            dtype: of a record.
            absent: rows whose sample could not be read when the cache was made.
            missing: rows of units that were not committed, in a slab of a partial seed, and those of `outside`.
            outside: of a subset, which rows are of samples that it does not hold, bool `[rows]`.
        """
        # a plain view of the map: each take from an np.memmap would go through that class's Python code
        self._raw = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        self._dtype = dtype
        self.absent, self.missing, self._outside = absent, missing, outside
        self._is_missing = self._marked(missing)
        self._is_hole = self._marked(np.union1d(absent, missing))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._raw)

    def gather(self, rows: Rows) -> Records:
        """Return the records of `rows`, in their order.

        Raises:
            MissingUnitError: a row whose sample could not be read when the cache was made, or whose unit is not committed.
        """
        if self._is_hole is not None and (hit := rows[self._is_hole[rows]]).size:
            raise MissingUnitError(f"row {hit[0]} is {self._reason(hit[:1])}; leave it out")
        records: Records = self._raw.take(rows, axis=0).view(self._dtype).reshape(len(rows))
        return records

    def _reason(self, row: Rows) -> str:
        if self._outside is not None and self._outside[row].any():
            return "of a sample that is not in this subset"
        return "not dumped yet" if self.is_missing(row).all() else "recorded as absent (its sample could not be read)"

    def is_missing(self, rows: Rows) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Return which of `rows` are missing: of units that were not committed, or not in a subset; bool `[rows]`."""
        return np.zeros(len(rows), bool) if self._is_missing is None else self._is_missing[rows]

    def _marked(self, rows: Rows) -> "np.ndarray[Any, np.dtype[np.bool_]] | None":
        """Return a mask over all rows, of which looking up a batch takes no time; None where it would mark none."""
        if not len(rows):
            return None
        mask = np.zeros(len(self), bool)
        mask[rows] = True
        return mask


class SlabFolder:
    """Where slabs are kept, and how many bytes of them."""

    def __init__(self, path: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        """Take the folder, by default $KDCACHE_HOME/slabs, or ~/.cache/kdcache/slabs.

        Args:
            path: the folder; it need not be there yet.
            limit: bytes of slabs that are kept; the one that is made may go beyond.
        """
        self.path = path or home_folder() / "slabs"
        self.limit = limit

    def make(self, name: str, rows: int, width: int, units: Callable[[], Iterable[Records]]) -> Path:
        """Return the file of the slab `name`, made from the records of all units unless it is there already.

        Raises:
            CacheError: no room for it.
        """
        path = self.path / f"{name}.npy"
        if not is_whole(path, rows, width):
            with one_at_a_time(path):
                if not is_whole(path, rows, width):  # another process has made it by now
                    materialise(path, rows, width, units())
            evict(self.path, keep=path, limit=self.limit)
        return path

    def write(self, name: str, data: bytes) -> None:
        """Keep a copy of an object beside the slabs, under the same limit.

        Raises:
            CacheError: no room for it.
        """
        path = self.path / name
        _write_whole(path, len(data), [data])
        evict(self.path, keep=path, limit=self.limit)


def is_whole(path: Path, rows: int, width: int) -> bool:
    """Return whether `path` is a slab of that shape with none of it cut off; it then counts as used just now."""
    try:
        os.utime(path)
        shape: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False
    return shape == (rows, width)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let no other process or thread make the slab `path` meanwhile; one that is killed lets go by itself.

    Where files cannot be locked they all go on at once: each then makes the slab for itself, and the last one's stays.
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
            # Only who holds the lock removes the file. Who waited for it meanwhile then holds a file without a name, which
            # others no longer find: so it looks whether the name is still that of its file, and if not begins anew.
            named = _is_named(file.fileno(), path)
            try:
                if named:
                    yield
                    return
            finally:
                if named:
                    with suppress(OSError):
                        path.unlink()
                fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do: a loader worker forked meanwhile has the file open too


def _is_named(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def materialise(path: Path, rows: int, width: int, units: Iterable[Records]) -> None:
    """Write the records of all `units`, in order, to `path`, which appears whole or not at all.

    Raises:
        CacheError: the folder cannot be written or is full.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows, width)})
    parts = (np.ascontiguousarray(records).view(np.uint8).data for records in units)
    _write_whole(path, rows * width, itertools.chain([header.getvalue()], parts))


def _write_whole(path: Path, size: int, parts: Iterable[bytes | memoryview]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # plain writes, not stores to a map: a full disk is then an error instead of a SIGBUS
            with temporary.open("xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave the name with zeros behind it
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot write slab {path} ({size} bytes): {error.strerror or error}; "
            "free some space, or give a folder with room: --slab-dir, or KDCACHE_HOME"
        ) from error


def evict(folder: Path, keep: Path, limit: int = DEFAULT_LIMIT) -> None:
    """Remove the least recently used slabs but `keep` until those left take at most `limit` bytes.

    A process that has one of them mapped keeps reading it. What killed processes left goes too: locks that nobody holds, and
    slabs half-made for a day.
    """
    for path in folder.glob(".*.lock"):
        with suppress(OSError), _locked(path, wait=False):
            pass
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                path.unlink()
    entries = []
    for path in (*folder.glob("*.npy"), *folder.glob("*.tar")):
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
