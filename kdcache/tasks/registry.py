"""The tasks by name."""

from kdcache.config.spec import choose
from kdcache.errors import UsageError
from kdcache.tasks.classification import Classification
from kdcache.tasks.detection import Detection
from kdcache.tasks.protocol import Task
from kdcache.tasks.segmentation import Segmentation

TASKS: dict[str, Task] = {
    Classification.name: Classification(),
    Segmentation.name: Segmentation(),
    Detection.name: Detection(),
}


ALIGNED: dict[str, Task] = {Segmentation.name: Segmentation(align_corners=True)}
"""Those that have maps, with the other way to upsample them."""


def open_task(name: str, *, align_corners: bool = False) -> Task:
    """Return the task of that name, as sources and manifests say it.

    Args:
        name: of the task.
        align_corners: how maps of logits are upsampled where labels are compared.

    Raises:
        UsageError: there is none (a newer kdcache may know it), or `align_corners` where there are
            no maps.
    """
    choose(name, TASKS, "task")
    if not align_corners:
        return TASKS[name]
    if name not in ALIGNED:
        raise UsageError(f"align_corners is not for {name}, which has no maps; leave it out")
    return ALIGNED[name]
