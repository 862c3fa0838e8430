"""What the predictions of each task are written to, and which settings they have; without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.runtime.tables import CSV, PARQUET
from kdcache.targets import ClassBoxes, ClassLabel, ClassMask

RESULTS = ".json"
"""The ending of a file of COCO's results."""
SETTINGS = ("top_k", "threshold", "window", "align_corners")
"""Those that not all tasks have."""


@dataclass(frozen=True, kw_only=True)
class PredictionForm:
    """How the predictions of a task are written."""

    endings: tuple[str, ...]
    """Of the name of the file; none of a folder."""
    settings: frozenset[str]
    """Those of `SETTINGS` that it has."""


FORMS: Mapping[str, PredictionForm] = {
    ClassLabel.task: PredictionForm(endings=(CSV, PARQUET), settings=frozenset({"top_k"})),
    ClassMask.task: PredictionForm(endings=(), settings=frozenset({"window", "align_corners"})),
    ClassBoxes.task: PredictionForm(
        endings=(CSV, PARQUET, RESULTS), settings=frozenset({"threshold"})
    ),
}
"""By task."""


def prediction_form(task: str) -> PredictionForm:
    """Return how the predictions of a task are written.

    Raises:
        UsageError: there is no such task.
    """
    return FORMS[choose(task, FORMS, "task")]


def require_settings(task: str, settings: Mapping[str, object]) -> None:
    """Raise a UsageError if a setting has a value that the predictions of a task have not.

    Args:
        task: the name of the task.
        settings: values by name; None of those that the user leaves out.
    """
    form = prediction_form(task)
    for name in SETTINGS:
        if settings[name] is not None and name not in form.settings:
            raise UsageError(f"{name} is not for {task}; leave it out")
