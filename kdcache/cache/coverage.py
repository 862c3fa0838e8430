"""How much of what a cache was asked to hold is there: one account, for all that tell of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kdcache.cache import Cache, Manifest
from kdcache.cache.documents.commit import numbers_in
from kdcache.cache.documents.extent import Extent, publish_extent, read_extents
from kdcache.cache.documents.limits import MOST_SEEDS, SEEDS
from kdcache.cache.documents.parts import MadeBy
from kdcache.cache.formats.protocol import Unit
from kdcache.config.files import parse_seeds, recorded_settings
from kdcache.errors import CacheError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.wording import counted, named

FINISH = "run the command that writes it again, which goes on where it stopped"
"""The way out of a cache that lacks something."""
_MOST_LISTED = 2_000_000  # missing units that are listed one by one
_NOTED = 4  # incomplete seeds that a note names one by one


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a cache was asked to hold, and what of it is committed.

    Seeds that share units are there, or missing, together.
    """

    manifest: Manifest
    asked: Mapping[int, Sequence[int]]
    """The units that were asked for, rising, by the first of their seeds."""
    held: Mapping[int, set[int]]
    """The units that are committed, asked for or not, likewise."""

    @property
    def seeds(self) -> list[int]:
        """The seeds that were asked for."""
        return self._expanded(self.asked)

    @property
    def complete_seeds(self) -> list[int]:
        """Those of which every unit is there."""
        every = self.manifest.num_units
        return self._expanded(seed for seed in self.asked if len(self.held.get(seed, ())) == every)

    @property
    def seeds_not_begun(self) -> list[int]:
        """Those of which nothing is there."""
        return self._expanded(first for first in self.asked if not self.held.get(first))

    @property
    def seeds_in_part(self) -> list[int]:
        """Those of which only some units were asked for, and all of these are there."""
        every = self.manifest.num_units
        begun = [
            seed for seed, units in self.asked.items() if len(units) < every and self.held.get(seed)
        ]
        return self._expanded(seed for seed in begun if not self._num_missing(seed))

    @property
    def missing(self) -> dict[int, list[int]]:
        """The units that are asked for and missing, by seed, of seeds that have been begun.

        Raises:
            CacheError: there are more than anyone lists.
        """
        incomplete = self._incomplete()
        if (count := sum(incomplete.values())) > _MOST_LISTED:
            most = f"at most {_MOST_LISTED} are listed"
            raise CacheError(
                f"{count} units are missing; {most}: is its manifest what was written?"
            )
        found: dict[int, list[int]] = {}
        for first in incomplete:
            units = [unit for unit in self.asked[first] if unit not in self.held[first]]
            found |= dict.fromkeys(self.manifest.unit_seeds(first), units)
        return found

    @property
    def units_asked(self) -> int:
        """How many units were asked for."""
        return sum(len(units) for units in self.asked.values())

    @property
    def units_done(self) -> int:
        """How many of them are there."""
        return self.units_asked - sum(self._num_missing(first) for first in self.asked)

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there; not where nothing was."""
        return 0 < self.units_asked == self.units_done

    def to_json(self) -> dict[str, Any]:
        """Return what commands tell of it, the same in each."""
        names = ("seeds", "complete_seeds", "missing", "seeds_not_begun", "seeds_in_part")
        counts = ("units_asked", "units_done", "is_complete")
        told = {name: getattr(self, name) for name in (*names, *counts)}
        return {**told, "units_per_seed": self.manifest.num_units}

    def what_is_missing(self) -> str:
        """Return in words what is missing; nothing if nothing is."""
        if not self.asked:
            return "nothing is there, and nothing was asked for yet"
        counts: dict[int, int] = {}
        for first, count in self._incomplete().items():
            counts |= dict.fromkeys(self.manifest.unit_seeds(first), count)
        total = self.manifest.num_units
        shown = [*counts][:_NOTED]
        parts = [f"seed {seed} lacks {counts[seed]} of {total} units" for seed in shown]
        if (more := len(counts) - _NOTED) > 0:
            lack = "lacks" if more == 1 else "lack"
            parts.append(f"{counted(more, 'more seed')} {lack} some")
        if absent := self.seeds_not_begun:
            be = "is" if len(absent) == 1 else "are"
            parts.append(f"{named(absent, 'seed')} {be} not begun")
        return ", ".join(parts)

    def _incomplete(self) -> dict[int, int]:
        """Return how many units are missing, by the first of their seeds, where others are
        there."""
        counts = {first: self._num_missing(first) for first in self.asked if self.held.get(first)}
        return {first: count for first, count in counts.items() if count}

    def _num_missing(self, first: int) -> int:
        held = self.held.get(first, set())
        units = self.asked[first]
        if len(units) == self.manifest.num_units:  # all are asked for: nothing need be looked up
            return len(units) - len(held)
        return sum(unit not in held for unit in units)

    def _expanded(self, firsts: Iterable[int]) -> list[int]:
        seeds: list[int] = []
        for first in firsts:
            seeds += self.manifest.unit_seeds(first)
        return seeds


def coverage_of(
    cache: Cache,
    units: Iterable[Unit] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    known: dict[str, Extent] | None = None,
) -> Coverage:
    """Return how much of what `cache` was asked to hold is there.

    Asked for is what its requests say, and every seed that has been begun without one. The first
    caches have no requests: then the seeds that their first dump was told count, too.

    Args:
        cache: the cache.
        units: its committed units, where they have been listed already.
        seeds: what to count instead.
        known: requests that were read before, see `read_extents`.

    Raises:
        CacheError: a request that cannot be read, or more seeds than anyone asks for.
    """
    manifest = cache.manifest
    held: dict[int, set[int]] = {}
    for first, unit in cache.committed() if units is None else units:
        if unit < manifest.num_units:
            held.setdefault(first, set()).add(unit)
    if seeds is None:
        asked = _asked(cache, held, known)
    else:
        asked = {manifest.unit_seeds(seed)[0]: range(manifest.num_units) for seed in seeds}
    if (count := len(asked) * manifest.seeds_per_unit) > MOST_SEEDS:
        raise CacheError(
            f"cache {cache} is asked for {count} seeds; at most {MOST_SEEDS} are counted"
        )
    return Coverage(manifest=manifest, asked=dict(sorted(asked.items())), held=held)


def ask_for(cache: Cache, seeds: Iterable[int]) -> None:
    """Record that `cache` is to hold `seeds`, before anything of them is written.

    Raises:
        CacheError: that cannot be written, and something is missing.
    """
    asked: dict[int, Sequence[int]] = {}
    for seed in seeds:
        asked[cache.manifest.unit_seeds(seed)[0]] = range(cache.manifest.num_units)
    ask_for_units(cache, asked)


def ask_for_units(cache: Cache, asked: Mapping[int, Sequence[int]]) -> None:
    """Record that `cache` is to hold units, by the first of their seeds, before any of them is
    written.

    Raises:
        CacheError: that cannot be written, and something is missing.
    """
    try:
        for extent in _requests(cache.manifest, asked):
            publish_extent(cache.storage, extent)
    except CacheError:
        held = set(cache.committed())
        for first, units in asked.items():
            if any((first, unit) not in held for unit in units):
                raise
        # all of it is there: a cache that can only be read needs no request


def note_left_out(cache: Cache, taken: Iterable[int]) -> None:
    """Say which seeds of `cache` are not among those `taken`, since they lack units."""
    try:
        coverage = coverage_of(cache)
    except CacheError:  # what is wrong with its requests is for `info` and `verify` to tell
        coverage = coverage_of(cache, seeds=cache.seeds())
    left_out = {*coverage.seeds} - {*coverage.complete_seeds} - {*taken}
    if left_out:
        every = range(cache.manifest.num_units)
        firsts = sorted({cache.manifest.unit_seeds(seed)[0] for seed in left_out})
        missing = replace(coverage, asked=dict.fromkeys(firsts, every)).what_is_missing()
        verb = "is" if len(left_out) == 1 else "are"
        say(f"note: {named(sorted(left_out), 'seed')} of cache {cache} {verb} left out: {missing}")


def first_seeds(made_by: MadeBy) -> set[int]:
    """Return the seeds that the first dump into a cache was told; none where that is not known."""
    seeds = recorded_settings(made_by.config).get("seeds")
    try:
        found = set(parse_seeds(seeds)) if isinstance(seeds, str) else set()
        return found if len(found) <= MOST_SEEDS else set()
    except UsageError:
        return set()


def _asked(
    cache: Cache,
    held: Mapping[int, set[int]],
    known: dict[str, Extent] | None,
) -> dict[int, Sequence[int]]:
    manifest = cache.manifest
    every = range(manifest.num_units)
    extents = read_extents(cache.storage, known)
    naming: dict[int, set[int]] = {}  # which requests name a seed, by the first of its group
    for number, extent in enumerate(extents):
        for seed in extent.all_seeds():
            naming.setdefault(manifest.unit_seeds(seed)[0], set()).add(number)
    union = lru_cache(None)(lambda numbers: _union([extents[number] for number in numbers], every))
    asked: dict[int, Sequence[int]] = {}
    for first, numbers in naming.items():
        asked[first] = union(frozenset(numbers))
    begun = numbers_in(cache.storage.list("seeds"), "{:05d}", SEEDS)
    others = [*held, *begun] if extents else [*held, *begun, *first_seeds(manifest.made_by)]
    for seed in others:
        asked.setdefault(manifest.unit_seeds(seed)[0], every)
    return asked


def _union(extents: Sequence[Extent], every: range) -> Sequence[int]:
    """Return the units of `every` that any of the requests wants, rising."""
    wanted: set[int] = set()
    for extent in extents:
        if extent.units is None:
            return every
        wanted.update(unit for unit in extent.all_units() if unit in every)
    return every if len(wanted) == len(every) else sorted(wanted)


def _requests(manifest: Manifest, asked: Mapping[int, Sequence[int]]) -> list[Extent]:
    """Return requests for units by the first of their seeds, one for all seeds with the same
    units."""
    alike: dict[tuple[int, ...] | None, list[int]] = {}
    for first, units in asked.items():
        key = None if len(units) == manifest.num_units else tuple(units)
        alike.setdefault(key, []).extend(manifest.unit_seeds(first))
    return [Extent.of(seeds, units) for units, seeds in alike.items() if units is None or units]
