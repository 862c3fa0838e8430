"""Models over batches of views: how dump, calibration and `codec-error` get logits, and what
fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Boxes
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import is_of_others, world_size
from kdcache.runtime.user_code import user_code
from kdcache.views import Batch

_Fetch = Callable[[], TeacherLogits]
ReadOut = Callable[[VisionModel, Any, Batch], TeacherLogits]
"""Gives the logits in what a model has given of a batch."""


def run_models(
    models: Sequence[VisionModel],
    batches: Iterable[Batch],
    compute: Compute,
    read_out: ReadOut | None = None,
) -> Iterator[tuple[Batch, list[TeacherLogits]]]:
    """Yield each batch with the logits of each model on the host; model i sees the batch's views i.

    The device works on the next batch while the caller works on one.

    Args:
        models: that are run.
        batches: of views.
        compute: where and how they run.
        read_out: gives the logits in a model's output; by default those that a cache holds.
    """
    placed_models = [compute.place(model).eval() for model in models]
    waiting: tuple[Batch, list[_Fetch]] | None = None
    for batch in batches:
        fetches = _started(models, placed_models, batch, compute, read_out or _as_cached)
        if waiting is not None:
            yield _fetched(*waiting)
        waiting = (batch, fetches)
    if waiting is not None:
        yield _fetched(*waiting)


def _started(
    models: Sequence[VisionModel],
    placed_models: Sequence[nn.Module],
    batch: Batch,
    compute: Compute,
    read_out: ReadOut,
) -> list[_Fetch]:
    """Run each model, and return what fetches its logits to the host."""
    logits = []
    with torch.inference_mode(), compute.autocast():
        for model, placed, views in zip(models, placed_models, batch.views, strict=True):
            with model_code(f"model {model.spec} on a batch of {len(views)} views"):
                output = placed(compute.move(views))
                logits.append(read_out(model, output, batch))
        return [_fetch(values, compute) for values in logits]


def _as_cached(model: VisionModel, output: Any, batch: Batch) -> TeacherLogits:
    labels = batch.labels.to(lambda values: values.to(model.mean.device, non_blocking=True))
    return model.teacher_logits(output, labels)


def _fetch(logits: TeacherLogits, compute: Compute) -> _Fetch:
    """Begin to copy logits to the host; return what waits for them, and gives them."""
    fetch_values = compute.fetch(logits.values)
    if logits.boxes is None:
        return lambda: TeacherLogits(fetch_values())
    fetch_places = compute.fetch(logits.boxes.places)
    fetch_counts = compute.fetch(logits.boxes.counts)
    return lambda: TeacherLogits(fetch_values(), Boxes(fetch_places(), fetch_counts()))


def _fetched(batch: Batch, fetches: Sequence[_Fetch]) -> tuple[Batch, list[TeacherLogits]]:
    return batch, [fetch() for fetch in fetches]


@contextmanager
def model_code(what: str) -> Iterator[None]:
    """Run the code of a model in the block, which may be the user's own.

    Args:
        what: names the call, as the subject of a sentence: `training of model mypkg.models:build`.

    Raises:
        ModelError: it raises something. A batch norm after a pooling of the whole image does, which
            cannot train on one view.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, RuntimeError) and world_size() > 1 and is_of_others(error):
            raise  # of the processes around the model
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            cause = "normalises over a batch, and cannot train on one view at a time"
            way_out = "use a larger batch_size, fewer processes, or less accumulate"
            raise ModelError(f"{what} {cause}; {way_out}") from error
        with user_code(what, ModelError):
            raise
