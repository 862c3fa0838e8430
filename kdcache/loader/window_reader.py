"""Reading an epoch as it comes: units in windows, fetched ahead and let go when training is past
them.

A slab holds a whole seed. Where that is too much (images beside the records, maps of logits), the
epoch's order is such that a few units at a time are enough: units in a keyed order, a window of
them at a time, rows in a keyed order within each window.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kdcache.cache import Cache, Commit
from kdcache.cache.local_units import LocalUnits
from kdcache.cache.prefetch import MOST_AT_ONCE
from kdcache.errors import MissingUnitError, UsageError
from kdcache.loader.slab_reader import CommitsOf, Mask, RowsOfSeeds, own_commits
from kdcache.runtime.waiting import waiting
from kdcache.shapes import Records, Rows

_Key = tuple[int, int]  # first seed and number of a unit


class WindowReader:
    """The records of one cache, window by window."""

    def __init__(
        self,
        cache: Cache,
        *,
        is_partial: bool = False,
        commits: CommitsOf | None = None,
        units: LocalUnits | None = None,
        rows_ahead: int = 0,
    ) -> None:
        """Take the cache.

        Args:
            cache: the cache.
            is_partial: whether seeds may lack units, of those that this process sees.
            commits: of a seed; by default those that this process sees.
            units: where the tars are to be on this machine, for a source that reads their images.
            rows_ahead: by how many rows loader workers may be ahead of the batch that is at work.
        """
        self._cache = cache
        self._units = units
        self._rows_ahead = rows_ahead
        self._commits_of = commits or own_commits(cache, is_partial=is_partial)
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE, "kdcache-stream")
        self._commits: dict[_Key, dict[int, Commit]] = {}
        self._fetched: dict[_Key, Future[Records]] = {}
        self._windows: list[list[int]] = []
        self._window_of = np.zeros(0, np.int64)
        self._is_missing: dict[int, Mask] = {}
        self._is_absent: dict[int, Mask] = {}
        self._entered = 0

    def start(
        self, seeds: Sequence[int], following: Sequence[int]
    ) -> tuple[RowsOfSeeds, RowsOfSeeds]:
        """Take the seeds of the next epoch; return each one's rows that are absent, and those of
        units that are missing.

        Raises:
            MissingUnitError: units that are not committed, unless seeds may lack some.
        """
        for key in list(self._fetched):
            self._drop(key)
        self._commits = {}
        absent = {}
        missing = {}
        for seed in seeds:
            commits = self._commits_of(seed)
            absent[seed], missing[seed] = self._cache.unavailable(commits)
            first = self._cache.manifest.unit_seeds(seed)[0]
            for commit in commits:
                commits_of_unit = self._commits.setdefault((first, commit.unit), {})
                commits_of_unit[seed] = commit
        self._is_absent = self._marked(absent)
        self._is_missing = self._marked(missing)
        return absent, missing

    def open_epoch(self, windows: Sequence[Rows], first_row: int) -> None:
        """Take the epoch's windows of units, in order.

        Args:
            windows: the units of each.
            first_row: the first row that is still to come: what lies in windows before its own is
                not fetched.

        Raises:
            UsageError: those that are needed at once do not fit into the folder of slabs.
        """
        self._windows = [window.tolist() for window in windows]
        self._window_of = np.zeros(self._cache.manifest.num_units, np.int64)
        for number, window in enumerate(self._windows):
            self._window_of[window] = number
        self._entered = int(self._window_of[first_row // self._cache.manifest.unit_rows])
        self._check_room()

    def before(self, views: Rows) -> None:
        """Return when the windows of `views`, (row, seed), are there, and have the window after
        them fetched meanwhile.

        Raises:
            DamagedUnitError: a unit that is not what was committed.
        """
        units = views[:, 0] // self._cache.manifest.unit_rows
        last = int(self._window_of[units].max())
        while self._entered <= last:
            self._begin_fetching(self._entered)
            self._begin_fetching(self._entered + 1)
            with waiting(f"units of window {self._entered} of cache {self._cache}"):
                for key in self._keys(self._entered):
                    self._fetched[key].result()
            self._entered += 1

    def close(self) -> None:
        """Fetch nothing more; what is not begun would else be fetched before the process ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def gather(self, rows: Rows, seeds: Rows) -> Records:
        """Return the records of (row, seed) pairs, in their order; what lies in windows before
        theirs is let go.

        Raises:
            MissingUnitError: a row of a unit that is not committed, whose sample could not be read
                when it was dumped, or is not in a subset.
        """
        manifest = self._cache.manifest
        records = np.empty(len(rows), manifest.dtype)
        units = rows // manifest.unit_rows
        for seed in np.unique(seeds).tolist():
            is_of_seed = seeds == seed
            for unit in np.unique(units[is_of_seed]).tolist():
                is_of_unit = is_of_seed & (units == unit)
                records[is_of_unit] = self._records(unit, seed, rows[is_of_unit])
        self.release(rows)
        return records

    def _records(self, unit: int, seed: int, rows: Rows) -> Records:
        """Return the records of rows of one unit under one of its seeds."""
        manifest = self._cache.manifest
        group = manifest.unit_seeds(seed)
        key = group[0], unit
        if key not in self._fetched:
            raise MissingUnitError(f"unit {unit} of seed {seed} is not in the window that is read")
        absent = rows[self._is_absent[seed][rows]]
        if absent.size:
            raise MissingUnitError(
                f"row {absent[0]} is recorded as absent (its sample could not be read, or had no"
                " labels); leave it out"
            )
        self._cache.require_held(rows)
        unit_records = self._fetched[key].result()
        places = rows - unit * manifest.unit_rows
        records: Records = unit_records[group.index(seed), places]
        return records

    def release(self, rows: Rows) -> None:
        """Let go of what lies in windows before those of `rows`, the views of the batch that is at
        work."""
        if not len(rows):
            return
        units = rows // self._cache.manifest.unit_rows
        window = int(self._window_of[units].min())
        for key in list(self._fetched):
            _, unit = key
            if self._window_of[unit] < window:
                self._drop(key)

    def is_missing(self, rows: Rows, seeds: Rows) -> Mask:
        """Return which (row, seed) pairs are of units that were not committed, bool."""
        missing = np.zeros(len(rows), bool)
        for seed, is_row_missing in self._is_missing.items():
            missing |= (seeds == seed) & is_row_missing[rows]
        return missing

    def _marked(self, rows_of_seeds: RowsOfSeeds) -> dict[int, Mask]:
        """Return by seed which of all rows are among those of the seed."""
        all_rows = np.arange(self._cache.manifest.rows)
        return {seed: np.isin(all_rows, rows) for seed, rows in rows_of_seeds.items()}

    def _keys(self, window: int) -> list[_Key]:
        if window >= len(self._windows):
            return []
        firsts = sorted({first for first, _ in self._commits})
        keys: list[_Key] = []
        for unit in self._windows[window]:
            for first in firsts:
                key = first, unit
                if key in self._commits:
                    keys.append(key)
        return keys

    def _begin_fetching(self, window: int) -> None:
        """Have the units of a window fetched meanwhile."""
        for key in self._keys(window):
            if key not in self._fetched:
                self._fetched[key] = self._pool.submit(self._fetch, key)

    def _fetch(self, key: _Key) -> Records:
        commit = self._commit(key)
        if self._units is not None:
            data = self._units.fetch(commit)
        else:
            data = self._cache.unit_bytes(commit)
        return self._cache.decode_unit(commit, data)

    def _drop(self, key: _Key) -> None:
        """Let go of a unit's records, and of the copy of its tar once it is there."""
        future = self._fetched.pop(key)
        units = self._units
        if units is not None:
            commit = self._commit(key)
            future.add_done_callback(lambda _: units.release(commit))

    def _commit(self, key: _Key) -> Commit:
        """Return the commit of a unit, the first of its seeds'."""
        return next(iter(self._commits[key].values()))

    def _check_room(self) -> None:
        if self._units is None or not self._units.are_copies or not self._windows:
            return
        sizes = []
        for number in range(len(self._windows)):
            size = self._window_bytes(number)
            sizes.append(size)
        count = self._windows_at_once()
        largest = 0
        for start in range(len(sizes)):
            largest = max(largest, sum(sizes[start : start + count]))
        limit = self._cache.slabs.limit
        if largest > limit:
            raise UsageError(
                f"{count} windows of units are needed at once and take {largest} bytes, more than"
                f" the slab limit of {limit}; give a higher --slab-limit, a smaller --window, or"
                " fewer --workers"
            )

    def _window_bytes(self, window: int) -> int:
        num_bytes = 0
        for key in self._keys(window):
            num_bytes += self._commit(key).num_bytes
        return num_bytes

    def _windows_at_once(self) -> int:
        """Return how many windows are in use: from that of the batch at work to that which is
        fetched ahead."""
        most_units = max(len(window) for window in self._windows)
        rows = most_units * self._cache.manifest.unit_rows
        return 2 + -(-self._rows_ahead // rows)
