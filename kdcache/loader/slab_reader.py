"""Reading records by (row, seed) from slabs, and waiting for what is not dumped yet."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from kdcache.cache import Cache, Commit, Slab, open_cache
from kdcache.cache.opening import open_storage
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.stored_units import Fetch
from kdcache.errors import CacheError, KdcacheError, MissingUnitError
from kdcache.runtime.distributed import everywhere
from kdcache.runtime.waiting import Background, pause, waiting
from kdcache.shapes import Records, Rows

RowsOfSeeds = dict[int, Rows]
"""Rows by seed."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]
POLL_SECONDS = 2.0


@runtime_checkable
class Reader(Protocol):
    """Gives the records of a cache."""

    def start(
        self, seeds: Sequence[int], following: Sequence[int]
    ) -> tuple[RowsOfSeeds, RowsOfSeeds]:
        """Make ready for `seeds`, fetch `following` meanwhile; return each seed's rows that are
        absent, and that are missing.

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


CommitsOf = Callable[[int], Sequence[Commit]]
"""Gives the commits of a seed that count for the run; all its processes must ask, in one order."""


class SlabReader:
    """Reads from the slab of each seed; that of the next epoch is made meanwhile."""

    def __init__(
        self,
        cache: Cache,
        *,
        is_partial: bool = False,
        commits: CommitsOf | None = None,
        is_growing: bool = False,
        fetch: Fetch | None = None,
    ) -> None:
        """Take the cache.

        Args:
            cache: the cache.
            is_partial: whether seeds may lack units.
            commits: of a seed; by default those that this process sees.
            is_growing: whether units of the next seeds are still being made.
            fetch: returns the checked bytes of a unit; by default the cache's own way.
        """
        self._cache = cache
        self._is_partial = is_partial
        self._is_growing = is_growing
        self._fetch = fetch
        self._commits = commits or own_commits(cache, is_partial=is_partial)
        self._background = Background()
        self._ahead: dict[int, Future[_Ahead | None]] = {}
        self._slabs: dict[int, Slab] = {}

    def start(
        self, seeds: Sequence[int], following: Sequence[int]
    ) -> tuple[RowsOfSeeds, RowsOfSeeds]:
        """Make the slabs of `seeds`; return each seed's rows that are absent, and that are missing.

        Raises:
            CacheError: units that are missing or damaged.
        """
        # a complete seed never changes; to a partial one units may have come
        slabs = {}
        commits = {}
        for seed in seeds:
            if seed in self._slabs and not self._is_partial:
                slabs[seed] = self._slabs[seed]
            else:
                commits[seed] = self._commits(seed)
        if commits:
            what = f"the records of seed {', '.join(map(str, commits))} of cache {self._cache}"
            slabs |= everywhere(lambda: self._slabs_of(commits), what)
        self._slabs = slabs
        self._begin_following(following)
        absent = {}
        missing = {}
        for seed, slab in slabs.items():
            absent[seed] = slab.absent
            missing[seed] = slab.missing
        return absent, missing

    def gather(self, rows: Rows, seeds: Rows) -> Records:
        """Return the records of (row, seed) pairs, in their order.

        Raises:
            MissingUnitError: a row that is absent, or of a unit that is not committed.
        """
        assert self._slabs, "start comes first"
        unknown = seeds[~np.isin(seeds, [*self._slabs])]
        if unknown.size:
            raise MissingUnitError(
                f"seed {unknown[0]} is not among those that are read; start with it"
            )
        if len(self._slabs) == 1:
            (slab,) = self._slabs.values()
            return slab.gather(rows)
        records = np.empty(len(rows), self._cache.manifest.dtype)
        for seed, slab in self._slabs.items():
            is_of_seed = seeds == seed
            records[is_of_seed] = slab.gather(rows[is_of_seed])
        return records

    def is_missing(self, rows: Rows, seeds: Rows) -> Mask:
        """Return which (row, seed) pairs are of units that were not committed, bool."""
        is_missing = np.zeros(len(rows), bool)
        for seed, slab in self._slabs.items():
            if len(slab.missing):
                is_missing |= (seeds == seed) & slab.is_missing(rows)
        return is_missing

    def _begin_following(self, seeds: Sequence[int]) -> None:
        """Have the slabs of the next epoch made meanwhile."""
        ahead = {}
        for seed in seeds:
            # of a partial seed a slab made early would lack what is committed by its turn
            if seed not in self._slabs and not self._is_partial:
                ahead[seed] = self._ahead.get(seed) or self._begin(seed)
        self._ahead = ahead

    def _begin(self, seed: int) -> "Future[_Ahead | None]":
        """Have the slab of a seed made meanwhile."""
        reader = weakref.ref(self) if self._is_growing else None
        task = partial(_slab_ahead, self._cache, seed, reader, self._fetch)
        return self._background.submit(task)

    def _slabs_of(self, commits: Mapping[int, Sequence[Commit]]) -> dict[int, Slab]:
        """Return the slab of each seed; that which was made ahead, if it is of the same commits."""
        slabs = {}
        for seed, seed_commits in commits.items():
            ahead = self._result_ahead(seed)
            if ahead is not None and ahead.commits == digests_of(seed_commits):
                slabs[seed] = ahead.slab
            else:
                slabs[seed] = self._cache.slab_of(seed_commits, fetch=self._fetch)
        return slabs

    def _result_ahead(self, seed: int) -> "_Ahead | None":
        """Return what was made ahead for a seed, if anything was."""
        future = self._ahead.get(seed)
        if future is None:
            return None
        # one that still looks for units may see them late; making a slab, it holds its lock
        if self._is_growing and not future.done():
            return None
        return future.result()


class _Ahead(NamedTuple):
    """A slab that was made before its turn, and of which commits."""

    commits: list[str]
    slab: Slab


def _slab_ahead(
    cache: Cache, seed: int, reader: "weakref.ref[SlabReader] | None", fetch: Fetch | None
) -> _Ahead | None:
    """Return the slab of a seed that is complete as this process sees it; None of others.

    Nothing depends on it, and no other process is asked: what fails here is done again, and told,
    when its turn comes.

    Args:
        cache: the cache.
        seed: the seed.
        reader: who wants it, if units are still being made: they are waited for as long as it is
            there.
        fetch: returns the checked bytes of a unit; by default the cache's own way.
    """
    while reader is not None and reader() is not None and cache.missing_units(seed):
        pause(POLL_SECONDS)
    try:
        commits = cache.commits(seed)
        return _Ahead(digests_of(commits), cache.slab_of(commits, fetch=fetch))
    except KdcacheError:
        return None


def digests_of(commits: Sequence[Commit]) -> list[str]:
    """Return the hash of each commit."""
    return [commit.digest for commit in commits]


def own_commits(cache: Cache, *, is_partial: bool) -> CommitsOf:
    """Return what gives the commits of a seed as this process sees them, also of a partial one."""
    if is_partial:
        return cache.held_commits
    return cache.commits


def await_cache(path: str | Storage, seconds: float) -> Cache:
    """Return the cache at `path`, for whose manifest `seconds` are given.

    Raises:
        CacheError: there is none by then.
    """
    storage = path if isinstance(path, Storage) else open_storage(path)

    def num_manifests() -> int:
        return int(storage.exists("zarr.json"))

    _await(num_manifests, 1, seconds, f"cache {path}", "its dump has not begun")
    return open_cache(storage)


def await_seed(cache: Cache, seed: int, seconds: float) -> None:
    """Block until all units of `seed` are committed; `seconds` are given for each further unit.

    Raises:
        MissingUnitError: none was committed for that long.
    """
    total = cache.manifest.num_units

    def num_committed() -> int:
        return total - len(cache.missing_units(seed))

    what = f"cache {cache}, seed {seed}"
    _await(num_committed, total, seconds, what, "is its dump still running?")


def _await(count: Callable[[], int], total: int, seconds: float, what: str, doubt: str) -> None:
    num_present = count()
    change_time = time.monotonic()
    with waiting(lambda: f"{what}: {num_present} of {total} are there"):
        while num_present < total:
            if time.monotonic() - change_time > seconds:
                error = CacheError if total == 1 else MissingUnitError
                raise error(
                    f"{what}: {num_present} of {total} are there, and no more came for"
                    f" {seconds:g} s; {doubt}"
                )
            pause(min(POLL_SECONDS, max(seconds, 0.01)))
            num_before = num_present
            num_present = count()
            if num_present > num_before:
                change_time = time.monotonic()
