"""A saved model, opened: for a source whose classes it has, or for classes of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.sources import Source
from kdcache.targets import ClassLabel, task_of
from kdcache.tools.saved_classes import CLASSES_ADVICE, known_classes, names_for
from kdcache.tools.saved_model import SavedModel
from kdcache.views import Recipe

_OTHER_CLASSES = "give data of {given} classes, those of the model"
_CLASS_MAP = ", or --class-map FILE, which says which are which"


class OpenedModel(NamedTuple):
    """A model, and what is known of its classes."""

    saved: SavedModel
    model: VisionModel
    num_classes: int
    stated_names: Sequence[str] | None
    """Of the classes, as the user or the weights say them; None if neither does."""

    @property
    def class_names(self) -> Sequence[str]:
        """A name for each class: its number if nothing else is known, see `names_for`."""
        return names_for(self.saved, self.num_classes, self.stated_names, self.model.label_names)


def model_of_source(saved: SavedModel, source: Source, training: Recipe) -> VisionModel:
    """Return a saved model that is scored on a source.

    Args:
        saved: the model.
        source: of the model's task and classes.
        training: the recipe that it was trained for, which gives channels and input size.

    Raises:
        KdcacheError: it cannot be opened, or is of other classes.
    """
    task = task_of(source)
    advice = _OTHER_CLASSES
    if task == ClassLabel.task:
        advice += _CLASS_MAP
    return open_model(
        saved.spec,
        classes=source.classes,
        recipe=training,
        trained=True,
        task=task,
        classes_advice=advice,
    )


def model_of_own_classes(
    saved: SavedModel,
    stated: str | None,
    *,
    task: str,
    training: Recipe,
    labelled: Source | None = None,
) -> OpenedModel:
    """Return a saved model of as many classes as it has.

    Args:
        saved: the model.
        stated: its classes as the user says them, see `known_classes`.
        task: of the model.
        training: the recipe that it is opened for.
        labelled: data that are labelled with the model's classes, if there are any.

    Raises:
        KdcacheError: it cannot be opened, or has another number of classes.
    """
    classes, stated_names = known_classes(saved, stated, labelled)
    model = open_model(
        saved.spec,
        classes=classes,
        recipe=training,
        trained=True,
        task=task,
        classes_advice=CLASSES_ADVICE,
    )
    assert model.num_classes is not None, "a model that is opened was tried"
    return OpenedModel(saved, model, model.num_classes, stated_names)
