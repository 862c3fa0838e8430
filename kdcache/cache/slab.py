"""Slabs: one seed's records, verified and laid out as a local memory map."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdcache.cache.documents.commit import Commit
from kdcache.cache.local_file import LocalFile
from kdcache.cache.slab_folder import SLAB
from kdcache.errors import MissingUnitError
from kdcache.runtime.console import say
from kdcache.shapes import Records, Rows

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Slab:
    """One seed's records as a memory map, in row order."""

    def __init__(
        self,
        open_file: Callable[[], LocalFile],
        num_rows: int,
        dtype: "np.dtype[Any]",
        *,
        absent: Rows,
        missing: Rows,
        outside: Mask | None = None,
    ) -> None:
        """Map a file.

        Args:
            open_file: returns the file, whole and checked; it makes it anew where it is damaged.
            num_rows: rows of the slab.
            dtype: of a record.
            absent: rows whose sample could not be read when the cache was made.
            missing: rows of units that were not committed, in a slab of a partial seed, and those
                of `outside`.
            outside: of a subset, which rows are of samples that it does not hold, bool `[rows]`.
        """
        self._open_file = open_file
        self._num_rows = num_rows
        self._dtype = dtype
        self._map()
        self.absent = absent
        self.missing = missing
        self._outside = outside
        self._is_missing = self._marked(missing)
        self._is_unavailable = self._marked(np.union1d(absent, missing))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def gather(self, rows: Rows) -> Records:
        """Return the records of `rows`, in their order.

        A file that was written to or cut off meanwhile is made anew first: to read a map past the
        end of its file would end the process.

        Raises:
            MissingUnitError: a row whose sample could not be read when the cache was made, or whose
                unit is not committed.
            CacheError: the file was damaged, and cannot be made anew.
        """
        if self._is_unavailable is not None:
            unavailable = rows[self._is_unavailable[rows]]
            if unavailable.size:
                raise MissingUnitError(
                    f"row {unavailable[0]} is {self._reason(unavailable[:1])}; leave it out"
                )
        if self._file.has_changed():
            say(
                f"note: slab {self._file.path} was changed while it was read; it is checked, and"
                " made again if need be"
            )
            self._map()
        records: Records = self._raw.take(rows, axis=0).view(self._dtype).reshape(len(rows))
        return records

    def is_missing(self, rows: Rows) -> Mask:
        """Return which of `rows` are missing: of units that were not committed, or not in a subset;
        bool `[rows]`."""
        if self._is_missing is None:
            return np.zeros(len(rows), bool)
        is_missing: Mask = self._is_missing[rows]
        return is_missing

    def _map(self) -> None:
        self._file = self._open_file()
        self._raw = self._file.mapped(self._num_rows, self._dtype.itemsize)

    def _reason(self, row: Rows) -> str:
        if self._outside is not None and self._outside[row].any():
            return "of a sample that is not in this subset"
        if self.is_missing(row).all():
            return "not dumped yet"
        return "recorded as absent (its sample could not be read, or had no labels)"

    def _marked(self, rows: Rows) -> Mask | None:
        """Return a mask over all rows, of which looking up a batch takes no time; None where it
        would mark none."""
        if not len(rows):
            return None
        mask = np.zeros(len(self), bool)
        mask[rows] = True
        return mask


def slab_name(manifest_digest: str, commits: Sequence[Commit]) -> str:
    """Return the name of the file of the slab of some commits."""
    identity = hashlib.sha256(manifest_digest.encode())
    for commit in commits:
        identity.update(commit.digest.encode())  # which covers seed and unit
    return f"{identity.hexdigest()[:32]}.{SLAB}"
