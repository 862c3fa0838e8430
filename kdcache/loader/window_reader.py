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
        for key in [*self._fetched]:
            self._drop(key)
        self._commits = {}
        unavailable = {}
        for seed in seeds:
            commits = self._commits_of(seed)
            unavailable[seed] = self._cache.unavailable(commits)
            for commit in commits:
                key = self._cache.manifest.unit_seeds(seed)[0], commit.unit
                self._commits.setdefault(key, {})[seed] = commit
        rows = np.arange(self._cache.manifest.rows)
        self._is_missing = {
            seed: np.isin(rows, missing) for seed, (_, missing) in unavailable.items()
        }
        self._is_absent = {seed: np.isin(rows, absent) for seed, (absent, _) in unavailable.items()}
        return {seed: absent for seed, (absent, _) in unavailable.items()}, {
            seed: missing for seed, (_, missing) in unavailable.items()
        }

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
        last = int(self._window_of[views[:, 0] // self._cache.manifest.unit_rows].max())
        while self._entered <= last:
            for number in (self._entered, self._entered + 1):
                for key in self._keys(number):
                    if key not in self._fetched:
                        self._fetched[key] = self._pool.submit(self._fetch, key)
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
            group = manifest.unit_seeds(seed)
            for unit in np.unique(units[seeds == seed]).tolist():
                if (group[0], unit) not in self._fetched:
                    raise MissingUnitError(
                        f"unit {unit} of seed {seed} is not in the window that is read"
                    )
                chosen = (seeds == seed) & (units == unit)
                if (absent := rows[chosen & self._is_absent[seed][rows]]).size:
                    raise MissingUnitError(
                        f"row {absent[0]} is recorded as absent (its sample could not be read);"
                        " leave it out"
                    )
                self._cache.require_held(rows[chosen])
                held = self._fetched[group[0], unit].result()
                records[chosen] = held[group.index(seed), rows[chosen] - unit * manifest.unit_rows]
        self.release(rows)
        return records

    def release(self, rows: Rows) -> None:
        """Let go of what lies in windows before those of `rows`, the views of the batch that is at
        work."""
        before = (
            int(self._window_of[rows // self._cache.manifest.unit_rows].min()) if len(rows) else 0
        )
        for key in [key for key in self._fetched if self._window_of[key[1]] < before]:
            self._drop(key)

    def is_missing(self, rows: Rows, seeds: Rows) -> Mask:
        """Return which (row, seed) pairs are of units that were not committed, bool."""
        missing = np.zeros(len(rows), bool)
        for seed, of_seed in self._is_missing.items():
            missing |= (seeds == seed) & of_seed[rows]
        return missing

    def _keys(self, window: int) -> list[_Key]:
        if window >= len(self._windows):
            return []
        firsts = sorted({first for first, _ in self._commits})
        keys: list[_Key] = []
        for unit in self._windows[window]:
            keys += [(first, unit) for first in firsts if (first, unit) in self._commits]
        return keys

    def _fetch(self, key: _Key) -> Records:
        commit = self._commit(key)
        data = (
            self._units.fetch(commit) if self._units is not None else self._cache.unit_bytes(commit)
        )
        return self._cache.decode_unit(commit, data)

    def _drop(self, key: _Key) -> None:
        """Let go of a unit's records, and of the copy of its tar once it is there."""
        future = self._fetched.pop(key)
        units = self._units
        if units is not None:
            commit = self._commit(key)
            future.add_done_callback(lambda _: units.release(commit))

    def _commit(self, key: _Key) -> Commit:
        return next(iter(self._commits[key].values()))

    def _check_room(self) -> None:
        if self._units is None or not self._units.are_copies or not self._windows:
            return
        sizes = [
            sum(self._commit(key).num_bytes for key in self._keys(number))
            for number in range(len(self._windows))
        ]
        count = self._windows_at_once()
        largest = max((sum(sizes[start : start + count]) for start in range(len(sizes))), default=0)
        limit = self._cache.slabs.limit
        if largest > limit:
            raise UsageError(
                f"{count} windows of units are needed at once and take {largest} bytes, more than"
                f" the slab limit of {limit}; give a higher --slab-limit, a smaller --window, or"
                " fewer --workers"
            )

    def _windows_at_once(self) -> int:
        """Return how many windows are in use: from that of the batch at work to that which is
        fetched ahead."""
        rows = max(len(window) for window in self._windows) * self._cache.manifest.unit_rows
        return 2 + -(-self._rows_ahead // rows)
