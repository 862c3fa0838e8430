"""Making the units of a dump: from views through the teacher to records, and to a commit."""

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.codecs import encoded
from kdcache.dump.job import Job
from kdcache.dump.shares import UnitOrder, num_views
from kdcache.dump.unit import UnitMaker
from kdcache.errors import CodecError, UnreadableSampleError
from kdcache.models.first_batch import tell_no_logits
from kdcache.models.inference import run_models
from kdcache.models.vision_model import TeacherLogits
from kdcache.runtime.console import Bar
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.runtime.stopping import until_stopped
from kdcache.shapes import Records
from kdcache.views import Batch, ViewLoader, in_pairs, partners
from kdcache.views.dataset import Request

_NUM_LOOKS = 8
"""Views of which an engine without a process of its own looks at the logits."""
LOOK_SECONDS = 5.0  # between two looks whether another worker has committed the unit in the making


def write_units(job: Job, cache: Cache, order: UnitOrder, bar: Bar) -> Iterator[Unit]:
    """Compute and commit the units of `order` that are missing when their turn comes; yield each
    after its commit.

    One is being committed while the next is computed. When the process is told to stop, the unit in
    the making is dropped, and the one that is being committed is the last.
    """
    current: UnitMaker | None = None
    pending: Future[Unit | None] | None = None
    with ThreadPoolExecutor(1, "kdcache-commit") as committer:
        batches = records_of(job, cache, _requests(job, cache, order, bar))
        for batch, logits, records in until_stopped(batches):
            first_seed = cache.manifest.unit_seeds(int(batch.seeds[0]))[0]
            unit = int(batch.rows[0]) // cache.manifest.unit_rows
            # one that another has committed is dropped
            if current is None or (current.seed, current.unit) != (first_seed, unit):
                current = job.unit(cache, first_seed, unit)
            current.add(batch, logits, records)
            job.labels.add(batch)
            bar.advance(len(records), f"seed {current.seed}")
            if current.is_complete:
                job.labels.tell()
                yield from _committed(pending, order)
                pending = committer.submit(_commit, cache, current)
                current = None
        yield from _committed(pending, order)


def _commit(cache: Cache, maker: UnitMaker) -> Unit | None:
    """Commit a unit and return it, or None if another worker was faster."""
    if cache.is_committed(maker.seed, maker.unit):
        return None
    maker.commit()
    return maker.seed, maker.unit


def _committed(pending: "Future[Unit | None] | None", order: UnitOrder) -> Iterator[Unit]:
    if pending is None:
        return
    unit = pending.result()
    if unit is None:
        order.jump()
    else:
        yield unit


def batches_of(job: Job, cache: Cache, seed: int, unit: int) -> Iterator[Request]:
    """Yield the (row, seed) of each batch of a unit, the two of a mixed pair side by side, so that
    each image is drawn once.

    A batch never crosses units, nor the seeds of one, so that a unit is computed the same way every
    time.
    """
    rows = cache.manifest.unit_range(unit)
    size = job.config.batch_size
    mixing = job.recipe.mixing
    for unit_seed in cache.manifest.unit_seeds(seed):
        unit_rows = np.arange(rows.start, rows.stop)
        if mixing:
            partner_rows = partners(len(job.source), mixing, job.recipe.key, unit_seed)
            unit_rows = in_pairs(unit_rows, partner_rows)
        for start in range(0, len(unit_rows), size):
            yield [(int(row), unit_seed) for row in unit_rows[start : start + size]]


def records_of(
    job: Job, cache: Cache, requests: Iterable[Request]
) -> Iterator[tuple[Batch, TeacherLogits, Records]]:
    """Yield each batch with its logits, on the host, and records.

    Of the first batch it is said if these seem to be no logits.
    """
    is_first = True
    batches = _readable(job.loader(cache, requests))
    for batch, (logits,) in run_models([job.teacher], batches, job.compute):
        if is_first:
            tell_no_logits(job.teacher, logits.values)
        is_first = False
        yield batch, logits, _encode(job, cache, batch, logits)


def look_at_teacher(job: Job, cache: Cache, unit: Unit) -> None:
    """Say if the teacher's logits of some views seem to be none.

    It is for engines whose workers are elsewhere, where nobody would see what they say. Those have
    the GPUs, so it runs on the CPU.
    """
    request = next(batches_of(job, cache, *unit))[:_NUM_LOOKS]
    loader = ViewLoader(job.dataset(cache), [request], workers=0, pin_memory=False)
    on_cpu = Compute(ComputeConfig(device="cpu", workers=0))
    for _, (logits,) in run_models([job.teacher], _readable(loader), on_cpu):
        tell_no_logits(job.teacher, logits.values)


def _requests(job: Job, cache: Cache, order: UnitOrder, bar: Bar) -> Iterator[Request]:
    """Yield the batches of the units of `order`; of one that another worker commits meanwhile no
    more of them."""
    for seed, unit in order:
        num_remaining = num_views(cache, [(seed, unit)])
        last_look = -math.inf
        for request in batches_of(job, cache, seed, unit):
            if time.monotonic() - last_look > LOOK_SECONDS:
                if cache.is_committed(seed, unit):
                    bar.advance(num_remaining)
                    if last_look > -math.inf:
                        order.jump()
                    break
                last_look = time.monotonic()
            num_remaining -= len(request)
            yield request


def _readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except UnreadableSampleError as error:
        raise UnreadableSampleError(
            f"{error}, or dump with --skip-unreadable to record it as absent"
        ) from error


def _encode(job: Job, cache: Cache, batch: Batch, logits: TeacherLogits) -> Records:
    try:
        # lowrank's products belong on the teacher's device
        return encoded(cache.codec, logits.values.to(job.compute.device), logits.boxes)
    except CodecError as error:
        is_finite = torch.isfinite(logits.values).flatten(1).all(1)
        bad_places = (~is_finite).nonzero().flatten().tolist()
        if not bad_places:
            raise
        row = int(batch.rows[bad_places[0]])
        key = job.source.key(int(cache.order[row]))
        raise CodecError(
            f"teacher {job.teacher.spec} gives NaN or infinite logits for sample {key} (row {row},"
            f" seed {int(batch.seeds[0])}); check its weights, and its precision (float16 overflows"
            " past 65,504)"
        ) from error
