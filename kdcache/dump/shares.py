"""Which units a process of a dump makes, and in which order."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from random import SystemRandom

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.job import Job


class UnitOrder:
    """Units one after the other, in an order that may change on the way: who meets another worker
    goes on elsewhere.

    Two that go the same way would else stay side by side to the end, and every unit would be
    computed twice.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._remaining = deque(units)
        # two workers must not jump alike, and views are drawn from the global generators
        self._random = SystemRandom()

    def __iter__(self) -> Iterator[Unit]:
        """Yield each unit once."""
        while self._remaining:
            yield self._remaining.popleft()

    def jump(self) -> None:
        """Go on at a random place among the units that are left, and come to those before it in the
        end."""
        if self._remaining:
            place = self._random.randrange(len(self._remaining))
            self._remaining.rotate(-place)


def all_units(job: Job, cache: Cache) -> list[Unit]:
    """Return the units of the dump, in the order in which a single process makes them."""
    firsts = [seed for seed in job.seeds if seed == cache.manifest.unit_seeds(seed)[0]]
    return list(itertools.product(firsts, range(cache.manifest.num_units)))


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


def share(units: Sequence[Unit], rank: int, world_size: int) -> list[Unit]:
    """Return the units that process `rank` makes first, in order.

    `units` must be all of the dump, not those that are missing: processes start at different
    moments and see others missing, so that shares of these would be shifted against each other.
    """
    return list(units[rank::world_size])


def helping_order(units: Sequence[Unit], rank: int, world_size: int) -> list[Unit]:
    """Return `units`, those that are still missing, in the order in which process `rank` helps:
    each begins elsewhere."""
    start = len(units) * rank // world_size
    return [*units[start:], *units[:start]]
