"""Of which task a saved model is, how many classes it has, and what they are called; all of it
without torch."""

from collections.abc import Sequence

from kdcache.config.names import choose
from kdcache.config.spec import parse_spec
from kdcache.errors import UsageError
from kdcache.models.imagenet_names import imagenet_names, imagenets_note
from kdcache.models.specs import check_model, has_named_weights
from kdcache.runtime.console import say
from kdcache.sources import Source, class_names_of
from kdcache.sources.class_files import read_class_names
from kdcache.targets import KINDS
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.views import check_recipe

CLASSES_ADVICE = "give --classes {given}, or a file with as many names"
"""What to do with a model of other classes; `given` is how many it has."""
Classes = tuple[int | None, Sequence[str] | None]
"""How many classes there are, None for as many as the model has, and their names, if known."""


def checked_saved(text: str, *, task: str | None, recipe: str | None) -> SavedModel:
    """Return the model that a command is given, with its names and options checked as far as that
    takes no torch.

    Args:
        text: the folder of a run, or a spec with weights.
        task: of the model, if the user names it.
        recipe: that the user names, if any.

    Raises:
        KdcacheError: a name or an option is unknown, a path is not there, or the model is of
            another task.
    """
    saved = find_model(text)
    check_model(saved.spec, asks_library=False, is_trained=True)
    known_task(saved, task)
    if recipe is not None:
        check_recipe(recipe)
    return saved


def known_task(saved: SavedModel, stated: str | None) -> str | None:
    """Return the task of a model, as its weights or the user say it; None if neither does.

    Raises:
        UsageError: there is no such task, or they say different ones.
    """
    if stated is not None:
        choose(stated, KINDS, "task")
    if saved.facts is None:
        return stated
    if stated is not None and stated != saved.facts.task:
        raise UsageError(
            f"task is {stated}, and model {saved.spec} is of {saved.facts.task}; leave task out"
        )
    return saved.facts.task


def known_classes(saved: SavedModel, stated: str | None, labelled: Source | None = None) -> Classes:
    """Return how many classes a model has, and their names, as far as they are known.

    What the user says counts before what the weights say, and that before the data's labels.

    Args:
        saved: the model.
        stated: a number, or a text file with a name on each line, as the user says it.
        labelled: the data, if it has labels.

    Raises:
        UsageError: the user says neither, or nothing tells how many classes there are.
    """
    if stated is not None:
        return _stated_classes(stated)
    names = None
    if labelled is not None:
        names = class_names_of(labelled)
    if saved.facts is not None:
        return saved.facts.num_classes, saved.label_names or names
    if not saved.is_silent:
        return None, names
    if labelled is None:
        raise UsageError(
            f"the weights of {saved.spec} do not say their classes; give --classes, a number or a"
            " text file with a name on each line"
        )
    return labelled.classes, names


def names_for(
    saved: SavedModel,
    num_classes: int,
    names: Sequence[str] | None,
    library_names: Sequence[str] | None = None,
) -> Sequence[str]:
    """Return a name for each class of a model.

    Where names are not known, or are those of others, they are what the library calls the classes
    of its weights. Where it says nothing they are ImageNet's for a library's weights of as many
    classes, which is told; else the numbers of the classes.
    """
    for own_names in (names, library_names):
        if own_names is not None and len(own_names) == num_classes:
            return own_names
    spec = parse_spec(saved.spec)
    if saved.facts is None and has_named_weights(spec, dict(spec.options)):
        imagenet = imagenet_names(num_classes)
        if imagenet is not None:
            say(f"note: {imagenets_note(saved.spec, num_classes)}")
            return imagenet.short_names()
    return [str(number) for number in range(num_classes)]


def _stated_classes(text: str) -> Classes:
    if text.isdecimal() and int(text) > 0:
        return int(text), None
    names = read_class_names(text, "model")
    return len(names), names
