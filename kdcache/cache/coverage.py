"""How much of what a cache was asked to hold is there: one account, for all that tell of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdcache.cache import Cache, Manifest
from kdcache.cache.documents.commit import numbers_in
from kdcache.cache.documents.extent import Extent, publish_extent, read_extents
from kdcache.cache.documents.limits import MOST_SEEDS, SEEDS
from kdcache.cache.documents.parts import MadeBy
from kdcache.cache.formats.protocol import Unit
from kdcache.config.files import recorded_settings
from kdcache.config.seeds import parse_seeds
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
        return self._seeds_of(self.asked)

    @property
    def complete_seeds(self) -> list[int]:
        """Those of which every unit is there."""
        total = self.manifest.num_units
        return self._seeds_of(first for first in self.asked if len(self._units(first)) == total)

    @property
    def seeds_not_begun(self) -> list[int]:
        """Those of which nothing is there."""
        return self._seeds_of(first for first in self.asked if not self._units(first))

    @property
    def seeds_in_part(self) -> list[int]:
        """Those of which only some units were asked for, and all of these are there."""
        seeds: list[int] = []
        for first, units in self.asked.items():
            is_part = len(units) < self.manifest.num_units
            is_begun = bool(self._units(first))
            if is_part and is_begun and not self._num_missing(first):
                seeds += self.manifest.unit_seeds(first)
        return seeds

    @property
    def missing(self) -> dict[int, list[int]]:
        """The units that are asked for and missing, by seed, of seeds that have been begun.

        Raises:
            CacheError: there are more than anyone lists.
        """
        incomplete = self._incomplete()
        count = sum(incomplete.values())
        if count > _MOST_LISTED:
            most = f"at most {_MOST_LISTED} are listed"
            raise CacheError(
                f"{count} units are missing; {most}: is its manifest what was written?"
            )
        missing: dict[int, list[int]] = {}
        for first in incomplete:
            committed = self.held[first]
            units = [unit for unit in self.asked[first] if unit not in committed]
            missing |= dict.fromkeys(self.manifest.unit_seeds(first), units)
        return missing

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
        return {
            "seeds": self.seeds,
            "complete_seeds": self.complete_seeds,
            "missing": self.missing,
            "seeds_not_begun": self.seeds_not_begun,
            "seeds_in_part": self.seeds_in_part,
            "units_asked": self.units_asked,
            "units_done": self.units_done,
            "is_complete": self.is_complete,
            "units_per_seed": self.manifest.num_units,
        }

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
        num_others = len(counts) - len(shown)
        if num_others:
            verb = "lacks" if num_others == 1 else "lack"
            parts.append(f"{counted(num_others, 'more seed')} {verb} some")
        not_begun = self.seeds_not_begun
        if not_begun:
            verb = "is" if len(not_begun) == 1 else "are"
            parts.append(f"{named(not_begun, 'seed')} {verb} not begun")
        return ", ".join(parts)

    def _incomplete(self) -> dict[int, int]:
        """Return how many units are missing, by the first of their seeds, where others are
        there."""
        counts: dict[int, int] = {}
        for first in self.asked:
            if not self._units(first):
                continue
            count = self._num_missing(first)
            if count:
                counts[first] = count
        return counts

    def _num_missing(self, first: int) -> int:
        committed = self._units(first)
        units = self.asked[first]
        if len(units) == self.manifest.num_units:  # all are asked for: nothing need be looked up
            return len(units) - len(committed)
        return sum(unit not in committed for unit in units)

    def _units(self, first: int) -> set[int]:
        """Return the committed units of the seeds that begin with `first`."""
        return self.held.get(first, set())

    def _seeds_of(self, firsts: Iterable[int]) -> list[int]:
        """Return all seeds of the groups that begin with `firsts`."""
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
    if units is None:
        units = cache.committed()
    committed: dict[int, set[int]] = {}
    for first, unit in units:
        if unit < manifest.num_units:
            committed.setdefault(first, set()).add(unit)
    if seeds is None:
        requested = _requested(cache, committed, known)
    else:
        requested = _all_units_of(manifest, seeds)
    count = len(requested) * manifest.seeds_per_unit
    if count > MOST_SEEDS:
        raise CacheError(
            f"cache {cache} is asked for {count} seeds; at most {MOST_SEEDS} are counted"
        )
    return Coverage(manifest=manifest, asked=dict(sorted(requested.items())), held=committed)


def ask_for(cache: Cache, seeds: Iterable[int]) -> None:
    """Record that `cache` is to hold `seeds`, before anything of them is written.

    Raises:
        CacheError: that cannot be written, and something is missing.
    """
    ask_for_units(cache, _all_units_of(cache.manifest, seeds))


def ask_for_units(cache: Cache, units_of: Mapping[int, Sequence[int]]) -> None:
    """Record that `cache` is to hold units, by the first of their seeds, before any of them is
    written.

    Raises:
        CacheError: that cannot be written, and something is missing.
    """
    try:
        for extent in _requests(cache.manifest, units_of):
            publish_extent(cache.storage, extent)
    except CacheError:
        committed = cache.committed()
        for first, units in units_of.items():
            for unit in units:
                if (first, unit) not in committed:
                    raise
        # all of it is there: a cache that can only be read needs no request


def note_left_out(cache: Cache, used_seeds: Iterable[int]) -> None:
    """Say which seeds of `cache` are not among those that are used, since they lack units."""
    try:
        coverage = coverage_of(cache)
    except CacheError:  # what is wrong with its requests is for `info` and `verify` to tell
        coverage = coverage_of(cache, seeds=cache.seeds())
    left_out = {*coverage.seeds} - {*coverage.complete_seeds} - {*used_seeds}
    if not left_out:
        return
    seeds = sorted(left_out)
    missing = replace(coverage, asked=_all_units_of(cache.manifest, seeds)).what_is_missing()
    verb = "is" if len(seeds) == 1 else "are"
    say(f"note: {named(seeds, 'seed')} of cache {cache} {verb} left out: {missing}")


def first_seeds(made_by: MadeBy) -> set[int]:
    """Return the seeds that the first dump into a cache was told; none where that is not known."""
    text = recorded_settings(made_by.config).get("seeds")
    if not isinstance(text, str):
        return set()
    try:
        seeds = set(parse_seeds(text))
    except UsageError:
        return set()
    if len(seeds) > MOST_SEEDS:
        return set()
    return seeds


def _all_units_of(manifest: Manifest, seeds: Iterable[int]) -> dict[int, Sequence[int]]:
    """Return all units, by the first of their seeds."""
    every = range(manifest.num_units)
    units_of: dict[int, Sequence[int]] = {}
    for seed in seeds:
        first = manifest.unit_seeds(seed)[0]
        units_of[first] = every
    return units_of


def _requested(
    cache: Cache,
    committed: Mapping[int, set[int]],
    known_requests: dict[str, Extent] | None,
) -> dict[int, Sequence[int]]:
    """Return the units that a cache was asked for, by the first of their seeds."""
    manifest = cache.manifest
    extents = read_extents(cache.storage, known_requests)
    requested = _units_of_requests(manifest, extents)
    folders = cache.storage.list("seeds")
    others = [*committed, *numbers_in(folders, "{:05d}", SEEDS)]
    if not extents:
        others += first_seeds(manifest.made_by)
    for first, units in _all_units_of(manifest, others).items():
        requested.setdefault(first, units)
    return requested


def _units_of_requests(manifest: Manifest, extents: Sequence[Extent]) -> dict[int, Sequence[int]]:
    """Return the units that requests name, by the first of their seeds."""
    numbers_of: dict[int, set[int]] = {}  # which requests name a seed, by the first of its group
    for number, extent in enumerate(extents):
        for seed in extent.all_seeds():
            first = manifest.unit_seeds(seed)[0]
            numbers_of.setdefault(first, set()).add(number)
    every = range(manifest.num_units)
    unions: dict[frozenset[int], Sequence[int]] = {}  # many seeds are named by the same requests
    units_of: dict[int, Sequence[int]] = {}
    for first, numbers in numbers_of.items():
        key = frozenset(numbers)
        if key not in unions:
            requests = [extents[number] for number in key]
            unions[key] = _union(requests, every)
        units_of[first] = unions[key]
    return units_of


def _union(extents: Sequence[Extent], every: range) -> Sequence[int]:
    """Return the units of `every` that any of the requests wants, rising."""
    union: set[int] = set()
    for extent in extents:
        if extent.units is None:
            return every
        for unit in extent.all_units():
            if unit in every:
                union.add(unit)
    if len(union) == len(every):
        return every
    return sorted(union)


def _requests(manifest: Manifest, units_of: Mapping[int, Sequence[int]]) -> list[Extent]:
    """Return requests for units by the first of their seeds, one for all seeds with the same
    units."""
    seeds_of: dict[tuple[int, ...] | None, list[int]] = {}
    for first, units in units_of.items():
        key = None if len(units) == manifest.num_units else tuple(units)
        seeds_of.setdefault(key, []).extend(manifest.unit_seeds(first))
    requests: list[Extent] = []
    for named_units, seeds in seeds_of.items():
        if named_units != ():
            requests.append(Extent.of(seeds, named_units))
    return requests
