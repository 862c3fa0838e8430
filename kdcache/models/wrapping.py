"""Modules of the user's own as models of kdcache, which normalise views themselves."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from kdcache.errors import UsageError
from kdcache.models.modules import class_name, device_of
from kdcache.models.preprocessing import chosen_preprocessing
from kdcache.models.task_models import model_class
from kdcache.models.trial import require_plain_state, tried
from kdcache.models.vision_model import VisionModel, preprocessing_of
from kdcache.shapes import Size
from kdcache.views import Recipe


def wrapped(
    module: nn.Module,
    recipe: Recipe,
    *,
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    task: str = "classification",
) -> VisionModel:
    """Return a model that normalises views itself, from a module of the user's own.

    Args:
        module: takes normalised images, and returns logits.
        recipe: gives the channels, and the input size of modules that do not say theirs.
        size: input size; by default the module's, as timm's say it, or the recipe's.
        mean: of pixels scaled to 0 to 1, one number or one a channel; by default the module's.
        std: as `mean`.
        task: `classification` or `segmentation`.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views.
    """
    if isinstance(module, VisionModel):
        if size is not None or mean is not None or std is not None:
            raise UsageError(
                "size, mean and std are of a plain module; a model of kdcache has its own: give"
                " its `module`, or leave them out"
            )
        return module
    name = class_name(module)
    wishes = _wishes(module, size=size, mean=mean, std=std)
    make = model_class(task)
    return make(module, chosen_preprocessing(wishes, recipe, name), name)


def tried_model(
    module: nn.Module,
    recipe: Recipe,
    *,
    classes: int,
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    task: str = "classification",
) -> VisionModel:
    """Return a model as `wrapped` does, after trying it out on one view, where the module is.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views, gives something else than logits of so many classes,
            or has a state that cannot be saved.
    """
    model = wrapped(module, recipe, size=size, mean=mean, std=std, task=task)
    model.to(device_of(module))
    model.layout, model.num_classes = tried(model, classes, recipe.channels, is_teacher=True)
    require_plain_state(model.module, model.spec)
    return model


def _wishes(
    module: nn.Module,
    *,
    size: Size | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> dict[str, Any]:
    """Return the size, mean and std of a module's images: those of the call, else the module's.

    Raises:
        UsageError: neither says them.
    """
    if (mean is None) != (std is None):
        raise UsageError("mean and std belong together; give both, or neither")
    preprocessing = preprocessing_of(module)
    if preprocessing is not None:
        if size is None:
            size = preprocessing.size
        if mean is None:
            mean = preprocessing.mean
            std = preprocessing.std
    if mean is None:
        raise UsageError(
            f"model {class_name(module)} does not say how images are to be normalised; give mean"
            " and std"
        )
    return {"input_size": size, "mean": mean, "std": std}
