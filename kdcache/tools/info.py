"""What a cache holds, without reading every commit of a large one; and how a dump that many workers
make comes on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, open_cache
from kdcache.cache.arrays import ROOTS
from kdcache.cache.coverage import FINISH, Coverage, coverage_of
from kdcache.cache.documents.extent import Extent
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.inventory import take_inventory
from kdcache.cache.opening import open_storage
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.protocol import Entry, Storage, is_address, is_temporary
from kdcache.codecs import codec_spec
from kdcache.config.files import parse_seeds
from kdcache.dump.worker_status import Seen, Worker, rate_of, workers_of
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError
from kdcache.runtime.console import LINE_SECONDS, say
from kdcache.runtime.wording import counted

MOST_READ = 1000
"""Commits that are read for what no listing tells."""
_WRITERS_SECONDS = 3600.0  # age of commits that are read for who wrote them
_LEAST_WRITERS = 100  # but so many of them however old they are
_SHADES = "·░▒▓█"


def describe(cache: Cache) -> dict[str, Any]:
    """Return what `cache` holds, from its listing.

    Returns:
        `manifest`, `codec` (spec), what `Coverage.to_json` tells, the number of `units`, `bytes` of
        their objects and `bytes_per_view`, and the number of `absent` rows in `absent_of` units:
            all, or as
        many as are read.
    """
    manifest = cache.manifest
    inventory = take_inventory(cache)
    size = sum(entry.size for entry in inventory.objects.values())
    rows = sum(
        len(manifest.unit_range(unit)) * manifest.seeds_per_unit for _, unit in inventory.commits
    )
    # of a subset each unit holds about the same share
    views = rows * manifest.num_held / manifest.rows
    absent, looked_at = _absent(cache, list(inventory.commits))
    return {
        "manifest": manifest.to_json(),
        "codec": codec_spec(cache.codec),
        **coverage_of(cache, inventory.commits).to_json(),
        "units": len(inventory.commits),
        "bytes": size,
        "bytes_per_view": size / views if views else None,
        "absent": absent,
        "absent_of": looked_at,
    }


def _absent(cache: Cache, units: Sequence[Unit]) -> tuple[int, int]:
    """Return how many rows are recorded as absent, and in how many units, evenly spread, that was
    counted."""
    if not cache.manifest.skip_unreadable:
        return 0, len(units)
    some = units[:: -(-len(units) // MOST_READ)] if units else []
    counts = fetched(
        lambda unit: len(cache.whole_commit(*unit).absent), some, num_bytes=cache.commit_room
    )
    return sum(counts), len(some)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a dump is."""

    coverage: Coverage
    rate: float
    """Units per second of late; 0 where no worker is at work."""
    workers: list[Worker]
    """Those that committed a unit of late, by rank."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.coverage.is_complete

    @property
    def seconds_left(self) -> float | None:
        """Time that is left at this rate; None if nothing comes."""
        left = self.coverage.units_asked - self.coverage.units_done
        return left / self.rate if self.rate else None

    def to_json(self) -> dict[str, Any]:
        """Return what `info --follow --json` prints."""
        return {
            **self.coverage.to_json(),
            "units_per_minute": 60 * self.rate,
            "seconds_left": self.seconds_left,
            "workers": [worker.to_json() for worker in self.workers],
        }

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """Return the map of coverage as lines of (seeds, units), each sign standing for as many
        units as must share it."""
        firsts = sorted(self.coverage.asked)
        deep = -(-len(firsts) // height) if firsts else 1
        groups = [firsts[start : start + deep] for start in range(0, len(firsts), deep)]
        return [(_span(group), _shaded(self.coverage, group, width)) for group in groups]


class Follower:
    """Looks at a cache again and again; commits are listed, and only those of late are read, once
    each."""

    def __init__(self, cache: Cache, seeds: str | None = None) -> None:
        """Follow the dump of `seeds`, by default of all that the cache was asked to hold.

        Raises:
            UsageError: seeds that are not of the form A:B.
        """
        self._cache = cache
        self._seeds = None if seeds is None else parse_seeds(seeds)
        self._writers: dict[Unit, str] = {}
        self._requests: dict[str, Extent] = {}

    def look(self) -> Progress:
        """Return how far it is now."""
        units = self._cache.committed()
        coverage = coverage_of(self._cache, units, seeds=self._seeds, known=self._requests)
        wanted = {unit: entry for unit, entry in units.items() if unit[0] in coverage.asked}
        now = time.time()
        workers = workers_of(self._seen(wanted, now), now, is_complete=coverage.is_complete)
        is_at_work = any(not worker.is_lost for worker in workers)
        rate = rate_of([entry.time for entry in wanted.values()], now) if is_at_work else 0.0
        return Progress(coverage=coverage, rate=rate, workers=workers)

    def _seen(self, units: Mapping[Unit, Entry], now: float) -> list[Seen]:
        """Return the commits of late with their writers, after reading those that are new."""
        newest = sorted(units, key=lambda unit: -units[unit].time)[:MOST_READ]
        recent = [unit for unit in newest if units[unit].time > now - _WRITERS_SECONDS]
        chosen = newest[: max(len(recent), _LEAST_WRITERS)]
        new = [unit for unit in chosen if unit not in self._writers]
        self._writers |= zip(
            new, fetched(self._writer, new, num_bytes=self._cache.commit_room), strict=True
        )
        manifest = self._cache.manifest
        seen = []
        for unit in chosen:
            views = len(manifest.unit_range(unit[1])) * manifest.seeds_per_unit
            seen.append(Seen(self._writers[unit], units[unit].time, views))
        return seen

    def _writer(self, unit: Unit) -> str:
        try:
            return self._cache.whole_commit(*unit).writer
        except (DamagedUnitError, MissingUnitError):
            return ""


def follow(cache: Cache, seeds: str | None = None, *, seconds: float) -> Iterator[Progress]:
    """Yield how far the dump into `cache` is, every so many seconds or less often if a look takes
    long, to its end."""
    follower = Follower(cache, seeds)
    while True:
        start = time.monotonic()
        state = follower.look()
        yield state
        if state.is_complete:
            return
        time.sleep(max(seconds, 9 * (time.monotonic() - start)))


def wait_for_cache(path: str, *, seconds: float) -> Cache:
    """Block until there is a cache at `path`, look every so many seconds, and say so.

    Raises:
        CacheError: there cannot be one: no folder above it, something else in its place, a bucket
            that cannot be reached.
    """
    storage = open_storage(path)
    told = None
    while not storage.exists("zarr.json"):
        _require_place(storage, path)
        now = time.monotonic()
        if told is None or now - told >= LINE_SECONDS:
            clock = time.strftime("%H:%M:%S")
            say(f"{clock} no cache at {path} yet: waiting for its dump to begin")
            told = now
        time.sleep(seconds)
    return open_cache(storage)


def coverage_of_seeds(cache: Cache, seeds: str | None) -> Coverage:
    """Return what is there of `seeds`, by default of all that `cache` was asked to hold.

    Raises:
        UsageError: seeds that are not of the form A:B.
    """
    return coverage_of(cache, seeds=None if seeds is None else parse_seeds(seeds))


def require_complete(cache: Cache, coverage: Coverage) -> None:
    """Raise a CacheError that says what is missing, if anything is."""
    if coverage.is_complete:
        return
    done = f"{coverage.units_done} of {counted(coverage.units_asked, 'unit')} are there"
    missing = coverage.what_is_missing()
    raise CacheError(f"cache {cache} is not complete: {done}: {missing}; {FINISH}")


def _require_place(storage: Storage, path: str) -> None:
    """Raise a CacheError if no dump could make a cache at `path`."""
    if not is_address(path) and not Path(path).absolute().parent.is_dir():
        above = Path(path).parent
        raise CacheError(f"no cache can come at {path}: there is no folder {above}; check the path")
    if not is_address(path) and Path(path).exists() and not Path(path).is_dir():
        raise CacheError(f"{path} is a file, not a cache; give the folder of a cache")
    others = [name for name in storage.list("") if name not in ROOTS and not is_temporary(name)]
    if others and not storage.exists("zarr.json"):  # looked for again: the dump may just have begun
        held = others[0][:60]
        raise CacheError(
            f"{path} is not a cache, and not empty: it holds {held}; give the folder of a cache"
        )


def _span(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _shaded(coverage: Coverage, firsts: Sequence[int], width: int) -> str:
    """Return one sign per cell of units: a dot if nothing is there, a full block if all, a space if
    none is wanted."""
    num_units = coverage.manifest.num_units
    cells = min(width, num_units)
    edges = [num_units * cell // cells for cell in range(cells + 1)]
    is_whole = [len(coverage.asked[first]) == num_units for first in firsts]
    wanted = np.full(num_units, sum(is_whole))
    there = np.zeros(num_units, np.int64)
    for first, whole in zip(firsts, is_whole, strict=True):
        units = coverage.held.get(first, set())
        if not whole:
            wanted[[*coverage.asked[first]]] += 1
            units = units & {*coverage.asked[first]}
        there[[*units]] += 1
    signs = []
    for start, stop in pairwise(edges):
        signs.append(_shade(int(there[start:stop].sum()), int(wanted[start:stop].sum())))
    return "".join(signs)


def _shade(there: int, wanted: int) -> str:
    if not wanted:
        return " "
    if not there:
        return _SHADES[0]
    return _SHADES[-1] if there == wanted else _SHADES[1 + 3 * there // wanted]
