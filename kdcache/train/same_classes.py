"""Whether the classes of two sources are the same."""

from kdcache.errors import MismatchError
from kdcache.sources import Source, class_names_of
from kdcache.targets import task_of

_STATED = "classes=FILE, a name on each line, or classes=N where labels are class indices"
_STATED_CLASSES = {"csv": _STATED, "parquet": _STATED, "tars": "classes=N"}
"""The options that state the classes of sources that else count those that occur."""


def require_same_classes(training: Source, evaluated: Source) -> None:
    """Check that a source has the task, the classes and their names of the one that is trained on.

    Args:
        training: that is trained on.
        evaluated: that is evaluated on.

    Raises:
        MismatchError: it has others.
    """
    if task_of(evaluated) != task_of(training):
        raise MismatchError(
            f"eval_data {evaluated.spec} is for {task_of(evaluated)}, data {training.spec} for"
            f" {task_of(training)}"
        )
    if evaluated.classes != training.classes:
        raise MismatchError(
            f"eval_data {evaluated.spec} has {evaluated.classes} classes, data {training.spec}"
            f" {training.classes}; {_same_classes(training, evaluated)}"
        )
    training_names = class_names_of(training)
    evaluated_names = class_names_of(evaluated)
    if training_names is None or evaluated_names is None or training_names == evaluated_names:
        return
    for name, other in zip(training_names, evaluated_names, strict=True):
        if name != other:
            raise MismatchError(
                f"eval_data {evaluated.spec} calls a class {other!r} that data {training.spec}"
                f" calls {name!r}; {_same_classes(training, evaluated)}"
            )


def _same_classes(*sources: Source) -> str:
    """Return how two sources are made to have the same classes."""
    for source in sources:
        name = source.spec.partition(":")[0]
        if name in _STATED_CLASSES:
            return f"state the same classes for both: {_STATED_CLASSES[name]}"
    return "give sets of the same classes"
