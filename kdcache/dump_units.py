"""The units of a dump: which are to be made, and the making of one, from views through the teacher to records."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from kdcache.cache import Cache, Commit
from kdcache.dump_job import Job
from kdcache.errors import CodecError, UnreadableSampleError
from kdcache.inference import run_models
from kdcache.shapes import Logits, Records
from kdcache.tracking import progress
from kdcache.units import UnitMaker
from kdcache.views import Batch, in_pairs, partners
from kdcache.views.loading import Request

Atom = tuple[int, int]
"""The seed and the number of a unit: what one worker computes at once."""


def missing_units(job: Job, cache: Cache) -> list[Atom]:
    """Return the units of the dump that are not committed yet, in the order in which they are made."""
    return [(seed, unit) for seed in job.seeds for unit in cache.missing_units(seed)]


def write_units(job: Job, cache: Cache, todo: Sequence[Atom]) -> int:
    """Compute and commit the units of `todo`, and return how many; one unit is being committed while the next is computed."""
    manifest = cache.manifest
    written = 0
    current: UnitMaker | None = None
    pending: Future[Commit] | None = None
    total = sum(len(manifest.unit_range(unit)) for _, unit in todo)
    with progress("dump", total, "views") as bar, ThreadPoolExecutor(1, "kdcache-commit") as committer:
        for batch, logits, records in records_of(job, cache, _requests(job, cache, todo)):
            if current is None:
                seed, unit = int(batch.seeds[0]), int(batch.rows[0]) // manifest.unit_rows
                current = job.unit(cache, seed, unit)
            current.add(batch, logits, records)
            bar.advance(len(records), f"seed {current.seed}")
            if current.is_complete:
                if pending is not None:
                    pending.result()
                pending, current = committer.submit(current.commit), None
                written += 1
        if pending is not None:
            pending.result()
    return written


def batches_of(job: Job, cache: Cache, seed: int, unit: int) -> Iterator[Request]:
    """Yield the (row, seed) of each batch of a unit, the two of a mixed pair side by side, so that each image is drawn once.

    A batch never crosses units, so that a unit is computed the same way every time.
    """
    rows = cache.manifest.unit_range(unit)
    ordered = np.arange(rows.start, rows.stop)
    if job.recipe.mixing:
        ordered = in_pairs(ordered, partners(len(job.source), job.recipe.mixing, job.recipe.key, seed))
    size = job.config.batch_size
    for start in range(0, len(ordered), size):
        yield [(int(row), seed) for row in ordered[start : start + size]]


def records_of(job: Job, cache: Cache, requests: Iterable[Request]) -> Iterator[tuple[Batch, Logits, Records]]:
    """Yield each batch with its logits, on the host, and records."""
    for batch, (logits,) in run_models([job.teacher], _readable(job.loader(cache, requests)), job.compute):
        yield batch, logits, _encode(job, cache, batch, logits)


def _requests(job: Job, cache: Cache, todo: Sequence[Atom]) -> Iterator[Request]:
    for seed, unit in todo:
        if not cache.is_committed(seed, unit):  # another dump of this cache may have been here
            yield from batches_of(job, cache, seed, unit)


def _readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except UnreadableSampleError as error:
        raise UnreadableSampleError(f"{error}, or dump with --skip-unreadable to record it as absent") from error


def _encode(job: Job, cache: Cache, batch: Batch, logits: Logits) -> Records:
    try:
        return cache.codec.encode(logits)
    except CodecError as error:
        wrong = (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()
        if not wrong:
            raise
        row = int(batch.rows[wrong[0]])
        key = job.source.key(int(cache.order[row]))
        raise CodecError(
            f"teacher {job.teacher.spec} gives NaN or infinite logits for sample {key} (row {row}, "
            f"seed {int(batch.seeds[0])}); check its weights, and its precision (float16 overflows past 65,504)"
        ) from error
