"""How many views at once commands take that only run models; of `batch_size auto` it is tried."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdcache.errors import KdcacheError
from kdcache.models.inference import run_models
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import (
    AUTO,
    BatchSize,
    Trials,
    fastest_size,
    usual_batch_size,
)
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.runtime.wording import human_rate
from kdcache.shapes import Rows
from kdcache.views import Batch, ViewDataset
from kdcache.views.repeated import few_views, repeated_batch

_MOST_ON_CPU = 256
_MOST = 4096
"""Views that are tried at once."""


def settled_batch_size(
    models: Sequence[VisionModel],
    dataset: ViewDataset,
    rows: Rows,
    compute: Compute,
    size: BatchSize | None,
) -> int:
    """Return how many views models that run together take at once: `size`, or of `auto` the number
    that takes the least time for a view, which is told.

    Args:
        models: that are to be run, each on the views of its input size.
        dataset: the views.
        rows: that are to be run on; a few of them are rendered.
        compute: where and how the models run.
        size: as the user says it; None is what is usual on the device.

    Raises:
        KdcacheError: not even one view fits into memory, or none of the first few can be read.
    """
    if size is None:
        sizes = [recipe.input_size for recipe in dataset.recipes]
        return usual_batch_size(compute.device.type, sizes)
    if size != AUTO:
        return size
    # a compiled model would be compiled again for each size
    eager = Compute(replace(compute.config, compile=False))
    num_batches = 1 + compute.batches_ahead  # that are on the device together

    def run(batch: Batch) -> None:
        batches = [batch] * num_batches
        deque(run_models(models, batches, eager), maxlen=0)

    few = few_views(dataset, rows)
    return fastest_run(run, few, compute, most=len(rows), num_batches=num_batches)


def fastest_run(
    run: Callable[[Batch], object], few: Batch, compute: Compute, *, most: int, num_batches: int = 1
) -> int:
    """Return the size of batches that takes the least time for a view, and say which it is.

    Args:
        run: does with a batch what is to be done with all.
        few: some views.
        compute: where it is done.
        most: views that there are.
        num_batches: how often `run` does it with the batch.

    Raises:
        KdcacheError: not even one view fits into memory.
    """
    trials = Trials(compute.device)

    def rate_of(size: int) -> float | None:
        batch = repeated_batch(few, size)
        return trials.rate(lambda: run(batch), size * num_batches)

    most_at_once = _MOST_ON_CPU if compute.device.type == "cpu" else _MOST
    fastest = fastest_size(rate_of, most=min(most, most_at_once))
    if fastest is None:
        raise KdcacheError(
            f"batch_size auto: not even one view fits into the memory of {compute.device}; use"
            " --precision bfloat16, a smaller model, or another device"
        )
    rate = human_rate(fastest.rate)
    say(
        f"note: batch_size auto is {fastest.size} here: {rate} views/s, loading not counted;"
        f" {fastest.limit}"
    )
    return fastest.size
