"""What a cache holds, without reading every commit of a large one; and how a dump that many workers make comes on."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.census import Unit, committed, complete, missing_units, take_census
from kdcache.cache.commit import numbers_in
from kdcache.cache.fetch import fetched
from kdcache.cache.limits import SEEDS
from kdcache.cache.objects import Entry
from kdcache.codecs import codec_spec
from kdcache.config import parse_seeds
from kdcache.errors import DamagedUnitError, MissingUnitError, UsageError

MOST_READ = 1000
"""Commits that are read for what no listing tells."""
RECENT_SECONDS = 600.0
"""A worker counts as at work if it committed a unit within them, and the rate is that over them."""
_SHADES = "·░▒▓█"
_SEEDS_LINE = re.compile(r'^seeds = "([0-9:, ]{1,1000})"$', re.MULTILINE)


def describe(cache: Cache) -> dict[str, Any]:
    """Return what `cache` holds, from its listing.

    Returns:
        `manifest`, `codec` (spec), `complete_seeds`, `missing` units of the others by seed, the number of `units`, `bytes` of
        their objects and `bytes_per_view`, and the number of `absent` rows in `absent_of` units: all, or as many as are read.
    """
    manifest, census = cache.manifest, take_census(cache)
    missing = missing_units(manifest, census.commits)
    size = sum(entry.size for entry in census.objects.values())
    rows = sum(len(manifest.unit_range(unit)) * manifest.seeds_per_unit for _, unit in census.commits)
    views = rows * manifest.num_held / manifest.rows  # of a subset each unit holds about the same share
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
    counts = fetched(lambda unit: len(cache.whole_commit(*unit).absent), some, num_bytes=cache.commit_room)
    return sum(counts), len(some)


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
    map: dict[int, list[int]]
    """The units that are there, rising, by the first of their seeds."""
    num_units: int = 0
    """Units of a seed."""

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
        return [(_span(group), _shaded([self.map[first] for first in group], self.num_units, width)) for group in groups]


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
        held: dict[int, list[int]] = {first: [] for first in firsts}
        units = {unit: entry for unit, entry in units.items() if unit[0] in held and unit[1] < manifest.num_units}
        for first, unit in units:  # in order
            held[first].append(unit)
        now = time.time()
        return Progress(
            done=len(units),
            total=len(firsts) * manifest.num_units,
            rate=rate_of(units.values(), now),
            workers=self._workers(units, now),
            map=held,
            num_units=manifest.num_units,
        )

    def _wanted(self, units: Iterable[Unit]) -> set[int]:
        if self._seeds is not None:
            return set(self._seeds)
        begun = numbers_in(self._cache.objects.list("seeds"), "{:05d}", SEEDS)
        return {*_first_seeds(self._cache.manifest.made_by), *begun, *(first for first, _ in units)}

    def _workers(self, units: Mapping[Unit, Entry], now: float) -> dict[str, int]:
        recent = sorted((unit for unit in units if units[unit].time > now - RECENT_SECONDS), key=lambda unit: -units[unit].time)
        new = [unit for unit in recent if unit not in self._writers][:MOST_READ]
        self._writers |= zip(new, fetched(self._writer, new, num_bytes=self._cache.commit_room), strict=True)
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


def _first_seeds(made_by: Mapping[str, Any]) -> list[int]:
    """Return the seeds that the first dump was told to make; none of a cache that was recoded.

    Its configuration is TOML, of which one line is looked for: it may come from anywhere, and is not worth a parser.
    """
    found = _SEEDS_LINE.search(made_by.get("config", ""))
    try:
        return parse_seeds(found[1]) if found else []
    except UsageError:
        return []


def _span(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _shaded(rows: Sequence[Sequence[int]], num_units: int, width: int) -> str:
    """Return one sign per cell of units: a dot if none of it is there, a full block if all is.

    Args:
        rows: of each seed that shares the line, the units that are there, rising.
        num_units: of a seed.
        width: cells, at most.
    """
    cells = min(width, num_units)
    edges = [num_units * cell // cells for cell in range(cells + 1)]
    there = np.zeros(cells, np.int64)
    for units in rows:
        if units:
            there += np.diff(np.searchsorted(units, edges))
    return "".join(_shade(count / size) for count, size in zip(there, np.diff(edges) * len(rows), strict=True))


def _shade(share: float) -> str:
    if share == 0:
        return _SHADES[0]
    return _SHADES[-1] if share == 1 else _SHADES[1 + int(share * 3)]
