"""Which units a process of a dump makes, and in which order."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from random import SystemRandom
from typing import TypeVar

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.job import Job

_LEAST_GROUPS = 8
"""Of units that are made together, for each of several workers, so that all are busy to the end."""
T = TypeVar("T")


class UnitOrder:
    """Groups of units one after the other, in an order that may change on the way: who meets
    another worker, or what it has done, goes on elsewhere.

    Two that go the same way would else stay side by side to the end, and every unit would be
    computed twice.
    """

    def __init__(self, groups: Iterable[Sequence[Unit]]) -> None:
        self._remaining = deque(groups)
        # two workers must not jump alike, and views are drawn from the global generators
        self._random = SystemRandom()

    def __iter__(self) -> Iterator[Sequence[Unit]]:
        """Yield each group once."""
        while self._remaining:
            yield self._remaining.popleft()

    def jump(self) -> None:
        """Go on at a random place among the groups that are left, and come to those before it in
        the end."""
        if self._remaining:
            place = self._random.randrange(len(self._remaining))
            self._remaining.rotate(-place)


def all_units(job: Job, cache: Cache, together: int = 1) -> list[Unit]:
    """Return the units of the dump, in the order in which a single process makes them: those of the
    same rows under as many seeds as `together` says one after the other."""
    firsts = [seed for seed in job.seeds if seed == cache.manifest.unit_seeds(seed)[0]]
    units = []
    for start in range(0, len(firsts), together):
        for unit in range(cache.manifest.num_units):
            for seed in firsts[start : start + together]:
                units.append((seed, unit))
    return units


def units_together(job: Job, cache: Cache, num_units: int, world_size: int) -> int:
    """Return how many units of the same rows are made together.

    Args:
        job: the dump.
        cache: that it writes into.
        num_units: that there are to make.
        world_size: workers that share them.
    """
    if job.recipe.mixing is not None:
        return 1  # rows are mixed with others under each seed
    together = max(job.config.seeds_at_once // cache.manifest.seeds_per_unit, 1)
    if world_size > 1:
        together = min(together, num_units // (_LEAST_GROUPS * world_size))
    return max(together, 1)


def grouped(units: Iterable[Unit], together: int) -> list[list[Unit]]:
    """Return units in groups of the same rows, those that come one after the other."""
    groups: list[list[Unit]] = []
    for unit in units:
        if groups and groups[-1][0][1] == unit[1] and len(groups[-1]) < together:
            groups[-1].append(unit)
        else:
            groups.append([unit])
    return groups


def not_committed(cache: Cache, units: Sequence[Unit]) -> list[Unit]:
    """Return those of `units` that are not committed yet, in their order."""
    missing_by_seed: dict[int, set[int]] = {}
    missing_units = []
    for seed, unit in units:
        if seed not in missing_by_seed:
            missing_by_seed[seed] = set(cache.missing_units(seed))
        if unit in missing_by_seed[seed]:
            missing_units.append((seed, unit))
    return missing_units


def num_views(cache: Cache, units: Iterable[Unit]) -> int:
    """Return how many views `units` hold."""
    num_rows = 0
    for _, unit in units:
        num_rows += len(cache.manifest.unit_range(unit))
    return num_rows * cache.manifest.seeds_per_unit


def share(groups: Sequence[T], rank: int, world_size: int) -> list[T]:
    """Return the groups of units that process `rank` makes first, in order.

    `groups` must be all of the dump, not those that are missing: processes start at different
    moments and see others missing, so that shares of these would be shifted against each other.
    """
    return list(groups[rank::world_size])


def helping_order(groups: Sequence[T], rank: int, world_size: int) -> list[T]:
    """Return `groups`, those that are still missing, in the order in which process `rank` helps:
    each begins elsewhere."""
    start = len(groups) * rank // world_size
    return [*groups[start:], *groups[:start]]
