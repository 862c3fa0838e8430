"""Which views are asked for, to make the units of a dump: the same rows under several seeds
together, so that an image is decoded once for all of them."""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.job import Job
from kdcache.dump.shares import UnitOrder, num_views
from kdcache.runtime.console import Bar
from kdcache.shapes import Rows
from kdcache.views import RowsUnderSeeds, in_pairs, partners

LOOK_SECONDS = 5.0  # between two looks whether another worker has committed units in the making


def batches_of(job: Job, cache: Cache, units: Sequence[Unit]) -> Iterator[RowsUnderSeeds]:
    """Yield the batches of units of the same rows.

    A batch never crosses units, and is of one seed, so that a unit is computed the same way every
    time. The two of a mixed pair are side by side, so that each image is drawn once; they are
    others under each seed, so that such batches come seed by seed.
    """
    seeds: list[int] = []
    for seed, _ in units:
        seeds += cache.manifest.unit_seeds(seed)
    rows = cache.manifest.unit_range(units[0][1])
    unit_rows = np.arange(rows.start, rows.stop)
    mixing = job.recipe.mixing
    size = job.batch_size
    if mixing is None:
        together = job.config.seeds_at_once
        for start in range(0, len(seeds), together):
            yield from _cut(unit_rows, seeds[start : start + together], size)
        return
    for seed in seeds:
        partner_rows = partners(len(job.source), mixing, job.recipe.key, seed)
        yield from _cut(in_pairs(unit_rows, partner_rows), [seed], size)


def _cut(rows: Rows, seeds: list[int], size: int) -> Iterator[RowsUnderSeeds]:
    for start in range(0, len(rows), size):
        yield RowsUnderSeeds(rows[start : start + size].tolist(), seeds)


def requests_of(job: Job, cache: Cache, order: UnitOrder, bar: Bar) -> Iterator[RowsUnderSeeds]:
    """Yield the batches of the units of `order`; of one that another worker has committed
    meanwhile no more of them.

    All of `order` were missing before: where one is there, another worker goes or went, and who
    followed would come upon it once more.
    """
    for units in order:
        num_left = {unit: num_views(cache, [unit]) for unit in units}
        last_look = -math.inf
        for rows, seeds in batches_of(job, cache, units):
            if time.monotonic() - last_look > LOOK_SECONDS:
                committed = [unit for unit in num_left if cache.is_committed(*unit)]
                for unit in committed:
                    bar.advance(num_left.pop(unit))
                if committed:
                    order.jump()
                last_look = time.monotonic()
            kept_seeds = []
            for seed in seeds:
                unit = (cache.manifest.unit_seeds(seed)[0], units[0][1])
                if unit in num_left:
                    num_left[unit] -= len(rows)
                    kept_seeds.append(seed)
            if kept_seeds:
                yield RowsUnderSeeds(rows, kept_seeds)
