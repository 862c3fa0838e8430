"""Modules of the user's own as models of kdcache, which normalise views themselves."""

from torch import nn

from kdcache.errors import UsageError
from kdcache.models.modules import class_name, device_of
from kdcache.models.preprocessing import (
    NOTHING_GIVEN,
    GivenPreprocessing,
    chosen_preprocessing,
)
from kdcache.models.task_models import model_class
from kdcache.models.trial import require_plain_state, tried
from kdcache.models.vision_model import VisionModel, completed
from kdcache.models.weight_misfit import TEACHER_ADVICE
from kdcache.views import Recipe


def wrapped(
    module: nn.Module,
    recipe: Recipe,
    given: GivenPreprocessing = NOTHING_GIVEN,
    *,
    task: str = "classification",
) -> VisionModel:
    """Return a model that normalises views itself, from a module of the user's own.

    Args:
        module: takes normalised images, and returns logits.
        recipe: gives the channels, and the input size of modules that do not say theirs.
        given: size, mean and std; by default the module's, as timm's say them, and the recipe's
            size where the module takes any.
        task: its name, such as `segmentation`.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views.
    """
    if isinstance(module, VisionModel):
        if not given.is_empty:
            raise UsageError(
                "size, mean and std are of a plain module; a model of kdcache has its own: give"
                " its `module`, or leave them out"
            )
        return module
    name = class_name(module)
    wanted = completed(given, module)
    if wanted.mean is None:
        raise UsageError(
            f"model {name} does not say how images are to be normalised; give mean and std"
        )
    wishes = {"input_size": wanted.size, "mean": wanted.mean, "std": wanted.std}
    make = model_class(task)
    return make(module, chosen_preprocessing(wishes, recipe, name), name)


def tried_model(
    module: nn.Module,
    recipe: Recipe,
    given: GivenPreprocessing = NOTHING_GIVEN,
    *,
    classes: int,
    task: str = "classification",
) -> VisionModel:
    """Return a model as `wrapped` does, after trying it out on one view, where the module is.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views, gives something else than logits of so many classes,
            or has a state that cannot be saved.
    """
    model = wrapped(module, recipe, given, task=task)
    model.to(device_of(module))
    model.layout, model.num_classes = tried(model, classes, recipe.channels, advice=TEACHER_ADVICE)
    require_plain_state(model.module, model.spec)
    return model
