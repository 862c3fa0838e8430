"""Making the units of a dump: from views through the teacher to records, and to a commit."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.encoding import EncodedBatch
from kdcache.dump.job import Job
from kdcache.dump.requests import batches_of, requests_of
from kdcache.dump.shares import UnitOrder
from kdcache.dump.unit import UnitMaker
from kdcache.dump.unreadable import told_to_skip
from kdcache.models.first_batch import tell_no_logits
from kdcache.models.inference import run_models, run_on_device
from kdcache.runtime.console import Bar
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.runtime.stopping import until_stopped
from kdcache.views import Batch, RowsUnderSeeds, ViewLoader

_NUM_LOOKS = 8
"""Views of which an engine without a process of its own looks at the logits."""


def write_units(job: Job, cache: Cache, order: UnitOrder, bar: Bar) -> Iterator[Unit]:
    """Compute and commit the units of `order` that are missing when their turn comes; yield each
    after its commit.

    Those of a group are in the making together, and are committed while the next are computed. When
    the process is told to stop, the units in the making are dropped, and those that are being
    committed are the last.
    """
    makers: dict[Unit, UnitMaker] = {}
    pending: deque[Future[Unit | None]] = deque()
    most_pending = job.config.seeds_at_once  # units of the same rows end at about the same time
    with ThreadPoolExecutor(1, "kdcache-commit") as committer:
        batches = records_of(job, cache, requests_of(job, cache, order, bar))
        for batch, encoded in until_stopped(batches):
            maker = maker_of(job, cache, makers, batch)
            maker.add(batch, encoded)
            job.labels.add(batch)
            bar.advance(len(encoded.records), f"seed {maker.seed}")
            if maker.is_complete:
                job.labels.tell()
                while pending and (pending[0].done() or len(pending) == most_pending):
                    yield from _committed(pending.popleft(), order)
                pending.append(committer.submit(_commit, cache, maker))
                del makers[maker.seed, maker.unit]
        for commit in pending:
            yield from _committed(commit, order)


def maker_of(job: Job, cache: Cache, makers: dict[Unit, UnitMaker], batch: Batch) -> UnitMaker:
    """Return the unit in the making that a batch is of; units of other rows, which another worker
    has committed, are dropped."""
    first_seed = cache.manifest.unit_seeds(int(batch.seeds[0]))[0]
    number = int(batch.rows[0]) // cache.manifest.unit_rows
    for unit in [*makers]:
        if unit[1] != number:
            del makers[unit]
    if (first_seed, number) not in makers:
        makers[first_seed, number] = job.unit(cache, first_seed, number)
    return makers[first_seed, number]


def _commit(cache: Cache, maker: UnitMaker) -> Unit | None:
    """Commit a unit and return it, or None if another worker was faster."""
    if cache.is_committed(maker.seed, maker.unit):
        return None
    maker.commit()
    return maker.seed, maker.unit


def _committed(pending: "Future[Unit | None]", order: UnitOrder) -> Iterator[Unit]:
    unit = pending.result()
    if unit is None:
        order.jump()
    else:
        yield unit


def records_of(
    job: Job, cache: Cache, requests: Iterable[RowsUnderSeeds]
) -> Iterator[tuple[Batch, EncodedBatch]]:
    """Yield each batch with its records.

    Of the first batch it is said if the teacher's logits seem to be none.
    """
    encoder = job.encoder(cache)
    batches = _readable(job.loader(cache, requests), cache)
    return run_on_device([job.teacher], batches, job.compute, begin=encoder.begin)


def look_at_teacher(job: Job, cache: Cache, unit: Unit) -> None:
    """Say if the teacher's logits of some views seem to be none.

    It is for engines whose workers are elsewhere, where nobody would see what they say. Those have
    the GPUs, so it runs on the CPU.
    """
    rows, seeds = next(batches_of(job, cache, [unit]))
    request = [(row, seeds[0]) for row in rows[:_NUM_LOOKS]]
    loader = ViewLoader(job.dataset(cache), [request], workers=0, pin_memory=False)
    on_cpu = Compute(ComputeConfig(device="cpu", workers=0))
    for _, (logits,) in run_models([job.teacher], _readable(loader, cache), on_cpu):
        tell_no_logits(job.teacher, logits.values)


def _readable(batches: Iterable[Batch], cache: Cache) -> Iterator[Batch]:
    with told_to_skip(cache):
        yield from batches
