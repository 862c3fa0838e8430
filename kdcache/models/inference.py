"""Models over batches of views: how dump, calibration and `codec-error` get logits, and what
fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models.vision_model import VisionModel, class_logits
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import is_of_others, world_size
from kdcache.runtime.user_code import user_code
from kdcache.shapes import ViewLogits, Views
from kdcache.views import Batch

_Fetch = Callable[[], ViewLogits]


def run_models(
    models: Sequence[VisionModel], batches: Iterable[Batch], compute: Compute
) -> Iterator[tuple[Batch, list[ViewLogits]]]:
    """Yield each batch with the logits of each model on the host; model i sees the batch's views i.

    The device works on the next batch while the caller works on one.
    """
    placed_models = [compute.place(model).eval() for model in models]
    waiting: tuple[Batch, list[_Fetch]] | None = None
    for batch in batches:
        fetches = _started(models, placed_models, batch, compute)
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
) -> list[_Fetch]:
    """Run each model, and return what fetches its logits to the host."""
    logits = []
    with torch.inference_mode(), compute.autocast():
        for model, placed, views in zip(models, placed_models, batch.views, strict=True):
            logits.append(_run(model, placed, views, compute))
        return [compute.fetch(values) for values in logits]


def _fetched(batch: Batch, fetches: Sequence[_Fetch]) -> tuple[Batch, list[ViewLogits]]:
    return batch, [fetch() for fetch in fetches]


def _run(model: VisionModel, placed: nn.Module, views: Views, compute: Compute) -> ViewLogits:
    with model_code(f"model {model.spec} on a batch of {len(views)} views"):
        output = placed(compute.move(views))
    return class_logits(output)


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
