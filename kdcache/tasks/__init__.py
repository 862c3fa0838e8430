"""Tasks: where the class logits are, how targets follow a view, how to score."""

from kdcache.config.spec import choose
from kdcache.tasks.classification import Classification
from kdcache.tasks.protocol import Score, Task
from kdcache.tasks.segmentation import Segmentation

__all__ = ["Score", "Task", "open_task"]

_TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Segmentation())}


def open_task(name: str) -> Task:
    """Return the task of that name, as sources and manifests say it.

    Raises:
        UsageError: there is none; a newer kdcache may know it.
    """
    return _TASKS[choose(name, _TASKS, "task")]
