"""The kinds of targets by task."""

from kdcache.config.names import choose
from kdcache.targets.boxes import ClassBoxes
from kdcache.targets.label import ClassLabel
from kdcache.targets.mask import ClassMask
from kdcache.targets.protocol import TargetKind

KINDS: dict[str, TargetKind] = {
    ClassLabel.task: ClassLabel(),
    ClassMask.task: ClassMask(),
    ClassBoxes.task: ClassBoxes(),
}
"""By task."""


def target_kind(task: str) -> TargetKind:
    """Return what the samples of a task are labelled with.

    Raises:
        UsageError: there is no such task; a newer kdcache may know it.
    """
    return KINDS[choose(task, KINDS, "task")]


def gives_maps(task: str) -> bool:
    """Return whether a model's logits for a task are maps.

    Raises:
        UsageError: there is no such task.
    """
    return "heads" in target_kind(task).layouts


def task_of(source: object) -> str:
    """Return the task that a source, or a data set, says its targets are for; of one that says
    nothing `classification`."""
    return str(getattr(source, "task", ClassLabel.task))
