"""What a cache holds, without reading every commit of a large one; and how a dump that many workers make comes on."""

import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.census import Unit, committed, complete, missing_units, take_census
from kdcache.cache.fetch import fetched
from kdcache.cache.objects import Entry
from kdcache.codecs import codec_spec
from kdcache.config import parse_seeds
from kdcache.errors import DamagedUnitError, MissingUnitError, UsageError

MOST_READ = 1000
"""Commits that are read for what no listing tells."""
RECENT_SECONDS = 600.0
"""A worker counts as at work if it committed a unit within them, and the rate is that over them."""
_SHADES = "·░▒▓█"


def describe(cache: Cache) -> dict[str, Any]:
    """Return what `cache` holds, from its listing.

    Returns:
        `manifest`, `codec` (spec), `complete_seeds`, `missing` units of the others by seed, the number of `units`, `bytes` of
        their objects and `bytes_per_view`, and the number of `absent` rows in `absent_of` units: all, or as many as are read.
    """
    manifest, census = cache.manifest, take_census(cache)
    missing = missing_units(manifest, census.commits)
    size = sum(entry.size for entry in census.objects.values())
    counts = np.add.reduceat(cache.is_held, range(0, manifest.rows, manifest.unit_rows), dtype=np.int64)
    views = sum(int(counts[unit]) * manifest.seeds_per_unit for _, unit in census.commits)
    absent, looked_at = _absent(cache, list(census.commits))
    return {
        "manifest": manifest.to_json(),
        "codec": codec_spec(cache.codec),
        "complete_seeds": complete(missing),
        "missing": {seed: units for seed, units in missing.items() if units},
        "units": len(census.commits),
        "bytes": size,
        "bytes_per_view": size / views if views else None,
        "absent": absent,
        "absent_of": looked_at,
    }


def _absent(cache: Cache, units: Sequence[Unit]) -> tuple[int, int]:
    """Return how many rows are recorded as absent, and in how many units, evenly spread, that was counted."""
    if not cache.manifest.skip_unreadable:
        return 0, len(units)
    some = units[:: -(-len(units) // MOST_READ)] if units else []
    commits = fetched(lambda unit: cache.whole_commit(*unit), some, num_bytes=0)
    return sum(len(commit.absent) for commit in commits), len(some)


@dataclass(frozen=True)
class Progress:
    """How far a dump is."""

    done: int
    """Units."""
    total: int
    rate: float
    """Units per second of late."""
    workers: dict[str, int]
    """That committed a unit of late, by name, with how many of these; the newest first. Of old caches the name is empty."""
    map: dict[int, list[bool]]
    """Which units are there, by the first of their seeds."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.done == self.total

    @property
    def seconds_left(self) -> float | None:
        """Time that is left at this rate; None if nothing comes."""
        return (self.total - self.done) / self.rate if self.rate else None

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """Return the map of coverage as lines of (seeds, units), each sign standing for as many units as must share it."""
        firsts = sorted(self.map)
        deep = -(-len(firsts) // height) if firsts else 1
        groups = [firsts[start : start + deep] for start in range(0, len(firsts), deep)]
        return [(_span(group), _shaded([self.map[first] for first in group], width)) for group in groups]


class Follower:
    """Looks at a cache again and again; commits are listed, and only those of late are read, once each."""

    def __init__(self, cache: Cache, seeds: str | None = None) -> None:
        """Follow the dump of `seeds`, by default of those that the cache was begun with and all that have been begun since.

        Raises:
            UsageError: seeds that are not of the form A:B.
        """
        self._cache = cache
        self._seeds = parse_seeds(seeds) if seeds is not None else None
        self._writers: dict[Unit, str] = {}

    def look(self) -> Progress:
        """Return how far it is now."""
        manifest, units = self._cache.manifest, committed(self._cache)
        firsts = sorted({manifest.unit_seeds(seed)[0] for seed in self._wanted(units)})
        held = {first: [False] * manifest.num_units for first in firsts}
        units = {unit: entry for unit, entry in units.items() if unit[0] in held and unit[1] < manifest.num_units}
        for first, unit in units:
            held[first][unit] = True
        now = time.time()
        return Progress(
            len(units), len(firsts) * manifest.num_units, rate_of(units.values(), now), self._workers(units, now), held
        )

    def _wanted(self, units: Iterable[Unit]) -> set[int]:
        if self._seeds is not None:
            return set(self._seeds)
        begun = {int(name) for name in self._cache.objects.list("seeds") if name.isdecimal()}
        return _first_seeds(self._cache.manifest.made_by) | begun | {first for first, _ in units}

    def _workers(self, units: Mapping[Unit, Entry], now: float) -> dict[str, int]:
        recent = sorted((unit for unit in units if units[unit].time > now - RECENT_SECONDS), key=lambda unit: -units[unit].time)
        new = [unit for unit in recent if unit not in self._writers][:MOST_READ]
        self._writers |= zip(new, fetched(self._writer, new, num_bytes=0), strict=True)
        return dict(Counter(self._writers[unit] for unit in recent if unit in self._writers))

    def _writer(self, unit: Unit) -> str:
        try:
            return self._cache.whole_commit(*unit).writer
        except (DamagedUnitError, MissingUnitError):
            return ""


def follow(cache: Cache, seeds: str | None = None, *, seconds: float) -> Iterator[Progress]:
    """Yield how far the dump into `cache` is, every so many seconds or less often if a look takes long, to its end."""
    follower = Follower(cache, seeds)
    while True:
        start = time.monotonic()
        state = follower.look()
        yield state
        if state.is_complete:
            return
        time.sleep(max(seconds, 9 * (time.monotonic() - start)))


def rate_of(entries: Iterable[Entry], now: float) -> float:
    """Return commits per second of late, counted from the first of them, or over `RECENT_SECONDS`."""
    times = sorted(entry.time for entry in entries)
    start = max(times[0], now - RECENT_SECONDS) if times else now
    return sum(moment > start for moment in times) / max(now - start, 1e-3)


def _first_seeds(made_by: Mapping[str, Any]) -> set[int]:
    """Return the seeds that the first dump was told to make."""
    try:
        return set(parse_seeds(tomllib.loads(made_by["config"])["dump-teacher"]["seeds"]))
    except (LookupError, TypeError, AttributeError, ValueError, UsageError):  # recoded, or not as we write it
        return set()


def _span(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _shaded(rows: Sequence[Sequence[bool]], width: int) -> str:
    """Return one sign per cell of units: a dot if none of it is there, a full block if all is."""
    units = len(rows[0])
    cells = min(width, units)
    edges = [units * cell // cells for cell in range(cells + 1)]
    shares = [sum(sum(row[start:stop]) for row in rows) / (len(rows) * (stop - start)) for start, stop in pairwise(edges)]
    return "".join(_SHADES[0] if share == 0 else _SHADES[-1] if share == 1 else _SHADES[1 + int(share * 3)] for share in shares)
