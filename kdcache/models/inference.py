"""Models over batches of views: how dump, calibration and `codec-error` get logits, and what
fails."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Boxes
from kdcache.runtime.batch_size import views_at_once
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import is_of_others, world_size
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Views
from kdcache.views import Batch, ViewDataset, ViewLoader
from kdcache.views.dataset import Request

ReadOut = Callable[[VisionModel, Any, Batch], Any]
"""Gives what is wanted of what a model has given of a batch, such as its logits."""
Forward = Callable[[nn.Module, Views], Any]
"""Runs a model on views."""
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ModelsOnViews:
    """Models, and the views that they are run on."""

    models: Sequence[VisionModel]
    dataset: ViewDataset
    """Model i sees the views of its input size i."""
    compute: Compute
    """Where and how they run."""

    def run(
        self, requests: Iterable[Request], read_out: ReadOut | None = None
    ) -> Iterator[tuple[Batch, list[TeacherLogits]]]:
        """Yield each batch that is asked for with the logits of each model, as `run_models`
        does."""
        loader = ViewLoader(
            self.dataset,
            requests,
            workers=self.compute.config.workers,
            pin_memory=self.compute.pin_memory,
        )
        return run_models(self.models, loader, self.compute, read_out)


def run_models(
    models: Sequence[VisionModel],
    batches: Iterable[Batch],
    compute: Compute,
    read_out: ReadOut | None = None,
) -> Iterator[tuple[Batch, list[TeacherLogits]]]:
    """Yield each batch with the logits of each model on the host; model i sees the batch's views i.

    Args:
        models: that are run.
        batches: of views.
        compute: where and how they run.
        read_out: gives the logits in a model's output; by default those that a cache holds.
    """

    def fetch(batch: Batch, logits: list[TeacherLogits]) -> Callable[[], list[TeacherLogits]]:
        return _fetched(logits, compute)

    return run_on_device(models, batches, compute, begin=fetch, read_out=read_out)


def run_on_device(
    models: Sequence[VisionModel],
    batches: Iterable[Batch],
    compute: Compute,
    *,
    begin: Callable[[Batch, list[Any]], Callable[[], Result]],
    read_out: ReadOut | None = None,
    forward: Forward = nn.Module.__call__,
) -> Iterator[tuple[Batch, Result]]:
    """Yield each batch with what is made of its logits on the device.

    The device works on the next batches while the caller works on one.

    Args:
        models: that are run; model i sees the batch's views i.
        batches: of views.
        compute: where and how they run.
        begin: is given a batch and what is wanted of each model right after its forward pass, and
            queues what is to be done with it; it returns what waits for that and gives it.
        read_out: gives what is wanted; by default the logits that a cache holds.
        forward: runs a model; by default on whole views.
    """
    placed_models = [compute.place(model).eval() for model in models]
    waiting: deque[tuple[Batch, Callable[[], Result]]] = deque()
    for batch in _without_autograd(batches):
        wanted = []
        with torch.inference_mode(), compute.autocast():
            for model, placed, views in zip(models, placed_models, batch.views, strict=True):
                what = f"model {model.spec} on a batch of {len(views)} views"
                with model_code(what), views_at_once(len(views)):
                    output = forward(placed, compute.move(views))
                    wanted.append((read_out or _as_cached)(model, output, batch))
        waiting.append((batch, begin(batch, wanted)))
        if len(waiting) > compute.batches_ahead:
            first, finish = waiting.popleft()
            yield first, finish()
    while waiting:
        first, finish = waiting.popleft()
        yield first, finish()


def _without_autograd(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches; those that this process renders are rendered without autograd, which takes
    some percent less time for small images."""
    iterator = iter(batches)
    while True:
        with torch.no_grad():
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


def _as_cached(model: VisionModel, output: Any, batch: Batch) -> TeacherLogits:
    return model.teacher_logits(output, batch.labels)


def _fetched(
    logits: Sequence[TeacherLogits], compute: Compute
) -> Callable[[], list[TeacherLogits]]:
    """Begin to copy the logits of a batch to the host; return what waits for them, and gives
    them."""
    tensors: list[Tensor] = []
    for values, boxes in logits:
        tensors.append(values)
        if boxes is not None:
            tensors += boxes
    fetch = compute.fetch(tensors)

    def wait() -> list[TeacherLogits]:
        on_host = iter(fetch())
        result = []
        for of_model in logits:
            values = next(on_host)
            boxes = None
            if of_model.boxes is not None:
                boxes = Boxes(next(on_host), next(on_host))
            result.append(TeacherLogits(values, boxes))
        return result

    return wait


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
