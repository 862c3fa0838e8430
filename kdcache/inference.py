"""Models over batches of views: the one way in which the dump, the calibration and `fidelity` get logits."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from kdcache.compute import Compute
from kdcache.errors import ModelError
from kdcache.models import VisionModel
from kdcache.shapes import ViewLogits, Views
from kdcache.user_code import user_code
from kdcache.views import Batch


def run_models(
    models: Sequence[VisionModel], batches: Iterable[Batch], compute: Compute
) -> Iterator[tuple[Batch, list[ViewLogits]]]:
    """Yield each batch with the logits of each model on the host; model i sees the batch's views i.

    The device works on the next batch while the caller works on one.
    """
    placed = [compute.place(model).eval() for model in models]
    ahead: tuple[Batch, list[Callable[[], ViewLogits]]] | None = None
    for batch in batches:
        with torch.inference_mode(), compute.autocast():
            logits = [_run(*one, compute) for one in zip(models, placed, batch.views, strict=True)]
            following = [compute.fetch(one) for one in logits]
        if ahead is not None:
            yield ahead[0], [fetched() for fetched in ahead[1]]
        ahead = batch, following
    if ahead is not None:
        yield ahead[0], [fetched() for fetched in ahead[1]]


def _run(model: VisionModel, placed: nn.Module, views: Views, compute: Compute) -> ViewLogits:
    with user_code(f"model {model.spec} on a batch of {len(views)} views", ModelError):
        logits: ViewLogits = placed(compute.move(views))
    return logits
