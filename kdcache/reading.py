"""Reading records by (row, seed): from slabs here, window by window in `stream`; and waiting for what is not dumped yet."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdcache.cache import Cache, Slab, open_cache
from kdcache.cache.opening import open_objects
from kdcache.errors import CacheError, MissingUnitError
from kdcache.shapes import Records, Rows
from kdcache.tracking import LINE_SECONDS, say

Holes = dict[int, Rows]
"""Rows by seed."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]
POLL_SECONDS = 2.0


@runtime_checkable
class Reader(Protocol):
    """Gives the records of a cache."""

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> tuple[Holes, Holes]:
        """Make ready for `seeds`, fetch `following` meanwhile; return each seed's rows that are absent, and that are missing.

        Raises:
            CacheError: units that are missing or damaged.
        """

    def gather(self, rows: Rows, seeds: Rows) -> Records:
        """Return the records of (row, seed) pairs, in their order.

        Raises:
            MissingUnitError: one that is not there.
        """

    def is_missing(self, rows: Rows, seeds: Rows) -> Mask:
        """Return which (row, seed) pairs are of units that were not committed, bool."""


class SlabReader:
    """Reads from the slab of each seed; that of the next epoch is fetched meanwhile."""

    def __init__(self, cache: Cache, *, is_partial: bool = False, ready: Callable[[int], None] = lambda seed: None) -> None:
        """Take the cache.

        Args:
            cache: the cache.
            is_partial: whether seeds may lack units.
            ready: called with a seed before its units are looked for; it may take its time.
        """
        self._cache, self._is_partial, self._ready = cache, is_partial, ready
        self._fetcher = ThreadPoolExecutor(1, "kdcache-slab")
        self._fetched: dict[int, Future[Slab]] = {}
        self._slabs: dict[int, Slab] = {}

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> tuple[Holes, Holes]:
        """Make the slabs of `seeds`; return each seed's rows that are absent, and that are missing.

        Raises:
            CacheError: units that are missing or damaged.
        """
        # of a partial seed a slab made early would lack what is committed by its turn
        wanted = dict.fromkeys(seeds if self._is_partial else [*seeds, *following])
        self._fetched = {one: self._fetched.get(one) or self._fetcher.submit(self._slab, one) for one in wanted}
        self._slabs = {seed: self._fetched[seed].result() for seed in seeds}
        if self._is_partial:
            self._fetched = {}
        return (
            {seed: slab.absent for seed, slab in self._slabs.items()},
            {seed: slab.missing for seed, slab in self._slabs.items()},
        )

    def gather(self, rows: Rows, seeds: Rows) -> Records:
        """Return the records of (row, seed) pairs, in their order.

        Raises:
            MissingUnitError: a row that is absent, or of a unit that is not committed.
        """
        assert self._slabs, "start comes first"
        if (strange := seeds[~np.isin(seeds, [*self._slabs])]).size:
            raise MissingUnitError(f"seed {strange[0]} is not among those that are read; start with it")
        if len(self._slabs) == 1:
            return next(iter(self._slabs.values())).gather(rows)
        records = np.empty(len(rows), self._cache.manifest.dtype)
        for seed, slab in self._slabs.items():
            records[seeds == seed] = slab.gather(rows[seeds == seed])
        return records

    def is_missing(self, rows: Rows, seeds: Rows) -> Mask:
        """Return which (row, seed) pairs are of units that were not committed, bool."""
        if not any(len(slab.missing) for slab in self._slabs.values()):
            return np.zeros(len(rows), bool)
        missing = [(seeds == seed) & slab.is_missing(rows) for seed, slab in self._slabs.items()]
        found: Mask = np.logical_or.reduce(missing)
        return found

    def _slab(self, seed: int) -> Slab:
        self._ready(seed)
        return self._cache.slab(seed, is_partial=self._is_partial)


def await_cache(path: str, seconds: float) -> Cache:
    """Return the cache at `path`, for whose manifest `seconds` are given.

    Raises:
        CacheError: there is none by then.
    """
    objects = open_objects(path)
    _await(lambda: int(objects.exists("zarr.json")), 1, seconds, f"cache {path}", "its dump has not begun")
    return open_cache(path)


def await_seed(cache: Cache, seed: int, seconds: float) -> None:
    """Return when all units of `seed` are committed; `seconds` are given for each further unit.

    Raises:
        MissingUnitError: none was committed for that long.
    """
    total = cache.manifest.num_units
    what = f"cache {cache}, seed {seed}"
    _await(lambda: total - len(cache.missing_units(seed)), total, seconds, what, "is its dump still running?")


def _await(count: Callable[[], int], total: int, seconds: float, what: str, doubt: str) -> None:
    done, changed = count(), time.monotonic()
    told = changed
    while done < total:
        if time.monotonic() - changed > seconds:
            error = CacheError if total == 1 else MissingUnitError
            raise error(f"{what}: {done} of {total} are there, and no more came for {seconds:g} s; {doubt}")
        if time.monotonic() - told > LINE_SECONDS:
            say(f"waiting for {what}: {done} of {total} are there")
            told = time.monotonic()
        time.sleep(min(POLL_SECONDS, max(seconds, 0.01)))
        done, before = count(), done
        changed = time.monotonic() if done > before else changed
