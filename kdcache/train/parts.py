"""The parts of a training, opened from its settings: the student, its batches, what it is evaluated
on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import UsageError
from kdcache.loader.replay import Replay
from kdcache.losses import Loss
from kdcache.models.first_batch import require_trainable
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import world_size
from kdcache.shapes import Size
from kdcache.tasks import Task
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.train.config import EmaConfig, TrainConfig
from kdcache.train.evaluation import Evaluation, evaluation_recipe
from kdcache.views import Recipe

_PLACE_AXES = 2
"""Of a segment: height and width; behind them anchors at each place, whose classes are one row."""


def require_possible(task: Task, loss: Loss, config: TrainConfig, recipe: Recipe) -> None:
    """Check that a loss is one of the task and fits the recipe.

    Raises:
        UsageError: it is not, or does not.
    """
    task.check(loss, config.loss, label_smoothing=config.label_smoothing)
    if "label" in loss.requires and recipe.mixes:
        raise UsageError(
            f"loss {config.loss} needs one label a view, and recipe {recipe.name} mixes; use dist"
            " or kl"
        )


def open_student(spec: str, replay: Replay, task_name: str) -> VisionModel:
    """Return the model that `spec` names, for the classes and the recipe of a replay.

    Raises:
        KdcacheError: it cannot be opened, or has nothing to train.
    """
    student = open_model(spec, classes=replay.source.classes, recipe=replay.recipe, task=task_name)
    require_trainable(student)
    return student


def require_softmax(loss: Loss, student: VisionModel, config: TrainConfig) -> None:
    """Check that a loss takes no softmax of rows whose classes do not exclude each other.

    Args:
        loss: of the training.
        student: whose logits it is given.
        config: of the training.

    Raises:
        UsageError: it does.
    """
    if student.layout.activation != "sigmoid":
        return
    for part in loss.parts:
        takes_probabilities = "teacher" in part.requires and "logits" not in part.requires
        if takes_probabilities and not hasattr(part, "activation"):
            raise UsageError(
                f"loss {config.loss} takes a softmax of each row, and the scores of student"
                f" {student.spec} are sigmoids; use dist, kl or mse"
            )


def require_size(loss: Loss, student: VisionModel, config: TrainConfig, classes: int) -> None:
    """Check that a loss can compare all that a part of a batch has.

    Rows are the views of all processes, or the places in them of the first map, or of the finest
    level. Of proposals each view has its own number, so that nothing is known of them here.

    Args:
        loss: of the training.
        student: whose logits it is given.
        config: of the training.
        classes: of the data.

    Raises:
        UsageError: it cannot.
    """
    layout = student.layout
    if layout.has_boxes:
        return
    views = chosen(config.batch_size) // config.accumulate
    shape = layout.segments[0].shape
    num_places = prod(shape[:_PLACE_AXES])
    num_anchors = prod(shape[_PLACE_AXES:])
    loss.require_size(views * num_places, layout.row_width(classes) * num_anchors)


def placed_student(student: VisionModel, compute: Compute, *, sync_batch_norm: bool) -> nn.Module:
    """Return the student on its device, with batch norms over all processes if so configured."""
    if sync_batch_norm:
        student.module = synchronised(student.module)
    return compute.place(student)


def synchronised(module: nn.Module) -> nn.Module:
    """Return a module whose batch norms are over all processes; it shares its tensors.

    torch's own function would take the activation off those of timm that end with one.
    """
    from timm.layers import convert_sync_batchnorm  # noqa: PLC0415

    converted: nn.Module = convert_sync_batchnorm(module)
    return converted


def parallel_model(model: nn.Module, compute: Compute) -> nn.Module:
    """Return a model whose gradients are averaged over all processes; the model itself if there is
    one process."""
    if world_size() == 1:
        return model
    device_ids = None
    if compute.device.type == "cuda":
        device_ids = [compute.device.index]
    return DistributedDataParallel(model, device_ids=device_ids)


def gradient_exchange(parallel: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
    """Return the context of a part's backward pass: gradients are averaged over processes after
    the last one."""
    if is_last or not isinstance(parallel, DistributedDataParallel):
        return nullcontext()
    return parallel.no_sync()


def weight_average(student: VisionModel, config: EmaConfig) -> Any:
    """Return the moving average of the student's weights; None if there is to be none."""
    from timm.utils import ModelEmaV3  # noqa: PLC0415

    if not config.decay:
        return None
    return ModelEmaV3(student, decay=config.decay, use_warmup=config.warmup)


def open_evaluation(
    config: TrainConfig, replay: Replay, sizes: Sequence[Size], compute: Compute
) -> Evaluation | None:
    """Return the evaluation of a training, if there is to be one; say what is known to be wrong
    with its labels.

    Args:
        config: of the training.
        replay: its views.
        sizes: the input sizes of the students, each once.
        compute: where and how models run.

    Raises:
        KdcacheError: its data cannot be opened, or is not of the classes that are trained.
    """
    if config.eval_data is None:
        return None
    recipe = evaluation_recipe(config.eval_recipe, replay.recipe, is_from_cache=bool(replay.caches))
    evaluation = Evaluation(
        config.eval_data,
        replay.source,
        recipe,
        sizes=sizes,
        batch_size=config.batch_size,
        window=config.eval_window,
        align_corners=config.align_corners,
        compute=compute,
    )
    SeenLabels(evaluation.source)  # tells it
    return evaluation
