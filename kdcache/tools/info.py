"""What a cache holds, without reading every commit of a large one; and how a dump that many workers
make comes on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from kdcache.cache.storage.protocol import Storage, is_address, is_temporary
from kdcache.codecs import codec_spec
from kdcache.config.seeds import parse_seeds
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
    units = list(inventory.commits)
    num_bytes = sum(entry.size for entry in inventory.objects.values())
    num_rows = 0
    for _, unit in units:
        num_rows += len(manifest.unit_range(unit)) * manifest.seeds_per_unit
    # of a subset each unit holds about the same share
    num_views = num_rows * manifest.num_held / manifest.rows
    bytes_per_view = None
    if num_views:
        bytes_per_view = num_bytes / num_views
    num_absent, num_units_read = _num_absent(cache, units)
    return {
        "manifest": manifest.to_json(),
        "codec": codec_spec(cache.codec),
        **coverage_of(cache, inventory.commits).to_json(),
        "units": len(units),
        "bytes": num_bytes,
        "bytes_per_view": bytes_per_view,
        "absent": num_absent,
        "absent_of": num_units_read,
    }


def _num_absent(cache: Cache, units: Sequence[Unit]) -> tuple[int, int]:
    """Return how many rows are recorded as absent, and in how many units, evenly spread, that was
    counted."""
    if not units or not cache.manifest.skip_unreadable:
        return 0, len(units)
    stride = -(-len(units) // MOST_READ)
    sample = units[::stride]
    counts = fetched(
        lambda unit: len(cache.whole_commit(*unit).absent), sample, num_bytes=cache.commit_room
    )
    return sum(counts), len(sample)


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
        if not self.rate:
            return None
        return (self.coverage.units_asked - self.coverage.units_done) / self.rate

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
        seeds_per_line = max(-(-len(firsts) // height), 1)
        lines = []
        for start in range(0, len(firsts), seeds_per_line):
            seeds = firsts[start : start + seeds_per_line]
            lines.append((_span(seeds), _shaded(self.coverage, seeds, width)))
        return lines


class Follower:
    """Looks at a cache again and again; commits are listed, and only those of late are read, once
    each."""

    def __init__(self, cache: Cache, seeds: str | None = None) -> None:
        """Follow the dump of `seeds`, by default of all that the cache was asked to hold.

        Raises:
            UsageError: seeds that are not of the form A:B.
        """
        self._cache = cache
        self._seeds = _parsed(seeds)
        self._writers: dict[Unit, str] = {}
        self._requests: dict[str, Extent] = {}

    def look(self) -> Progress:
        """Return how far it is now."""
        units = self._cache.committed()
        coverage = coverage_of(self._cache, units, seeds=self._seeds, known=self._requests)
        times = {}
        for unit, entry in units.items():
            if unit[0] in coverage.asked:
                times[unit] = entry.time
        now = time.time()
        commits = self._commits_of_late(times, now)
        workers = workers_of(commits, now, is_complete=coverage.is_complete)
        is_at_work = any(not worker.is_lost for worker in workers)
        rate = 0.0
        if is_at_work:
            rate = rate_of(list(times.values()), now)
        return Progress(coverage=coverage, rate=rate, workers=workers)

    def _commits_of_late(self, times: Mapping[Unit, float], now: float) -> list[Seen]:
        """Return the commits of late with their writers, after reading those that are new."""
        newest = sorted(times, key=lambda unit: -times[unit])[:MOST_READ]
        num_recent = sum(times[unit] > now - _WRITERS_SECONDS for unit in newest)
        units = newest[: max(num_recent, _LEAST_WRITERS)]
        new_units = [unit for unit in units if unit not in self._writers]
        writers = fetched(self._writer, new_units, num_bytes=self._cache.commit_room)
        self._writers |= zip(new_units, writers, strict=True)
        manifest = self._cache.manifest
        commits = []
        for unit in units:
            num_views = len(manifest.unit_range(unit[1])) * manifest.seeds_per_unit
            commits.append(Seen(self._writers[unit], times[unit], num_views))
        return commits

    def _writer(self, unit: Unit) -> str:
        """Return who wrote a unit; nothing if that cannot be read."""
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
    last_line = None
    while not storage.exists("zarr.json"):
        _require_place(storage, path)
        now = time.monotonic()
        if last_line is None or now - last_line >= LINE_SECONDS:
            clock = time.strftime("%H:%M:%S")
            say(f"{clock} no cache at {path} yet: waiting for its dump to begin")
            last_line = now
        time.sleep(seconds)
    return open_cache(storage)


def coverage_of_seeds(cache: Cache, seeds: str | None) -> Coverage:
    """Return what is there of `seeds`, by default of all that `cache` was asked to hold.

    Raises:
        UsageError: seeds that are not of the form A:B.
    """
    return coverage_of(cache, seeds=_parsed(seeds))


def _parsed(seeds: str | None) -> list[int] | None:
    if seeds is None:
        return None
    return parse_seeds(seeds)


def require_complete(cache: Cache, coverage: Coverage) -> None:
    """Raise a CacheError that says what is missing, if anything is."""
    if coverage.is_complete:
        return
    done = f"{coverage.units_done} of {counted(coverage.units_asked, 'unit')} are there"
    missing = coverage.what_is_missing()
    raise CacheError(f"cache {cache} is not complete: {done}: {missing}; {FINISH}")


def _require_place(storage: Storage, path: str) -> None:
    """Raise a CacheError if no dump could make a cache at `path`."""
    if not is_address(path):
        folder = Path(path)
        if not folder.absolute().parent.is_dir():
            raise CacheError(
                f"no cache can come at {path}: there is no folder {folder.parent}; check the path"
            )
        if folder.exists() and not folder.is_dir():
            raise CacheError(f"{path} is a file, not a cache; give the folder of a cache")
    others = [name for name in storage.list("") if name not in ROOTS and not is_temporary(name)]
    if others and not storage.exists("zarr.json"):  # looked for again: the dump may just have begun
        raise CacheError(
            f"{path} is not a cache, and not empty: it holds {others[0][:60]}; give the folder of a"
            " cache"
        )


def _span(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return str(seeds[0])
    return f"{seeds[0]}-{seeds[-1]}"


def _shaded(coverage: Coverage, firsts: Sequence[int], width: int) -> str:
    """Return one sign per cell of units: a dot if nothing is there, a full block if all, a space if
    nothing was asked for."""
    num_units = coverage.manifest.num_units
    num_asked = np.zeros(num_units, np.int64)
    num_present = np.zeros(num_units, np.int64)
    for first in firsts:
        present_units = coverage.held.get(first, set())
        asked_units = coverage.asked[first]
        if len(asked_units) == num_units:
            num_asked += 1
        else:
            num_asked[list(asked_units)] += 1
            present_units = present_units.intersection(asked_units)
        num_present[list(present_units)] += 1
    num_cells = min(width, num_units)
    signs = []
    for cell in range(num_cells):
        start = num_units * cell // num_cells
        stop = num_units * (cell + 1) // num_cells
        present_in_cell = int(num_present[start:stop].sum())
        asked_in_cell = int(num_asked[start:stop].sum())
        signs.append(_shade(present_in_cell, asked_in_cell))
    return "".join(signs)


def _shade(num_present: int, num_asked: int) -> str:
    if not num_asked:
        return " "
    if not num_present:
        return _SHADES[0]
    if num_present == num_asked:
        return _SHADES[-1]
    return _SHADES[1 + 3 * num_present // num_asked]
