"""The tasks by name."""

from kdcache.config.spec import choose
from kdcache.tasks.classification import Classification
from kdcache.tasks.detection import Detection
from kdcache.tasks.protocol import Task
from kdcache.tasks.segmentation import Segmentation

TASKS: dict[str, Task] = {
    Classification.name: Classification(),
    Segmentation.name: Segmentation(),
    Detection.name: Detection(),
}


def open_task(name: str) -> Task:
    """Return the task of that name, as sources and manifests say it.

    Raises:
        UsageError: there is none; a newer kdcache may know it.
    """
    return TASKS[choose(name, TASKS, "task")]
