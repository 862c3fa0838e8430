"""The tasks by name."""

from collections.abc import Sequence

from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.tasks.classification import Classification
from kdcache.tasks.detection import Detection
from kdcache.tasks.protocol import Task
from kdcache.tasks.segmentation import Segmentation
from kdcache.tasks.windows import check_window

TASKS: dict[str, Task] = {
    Classification.name: Classification(),
    Segmentation.name: Segmentation(),
    Detection.name: Detection(),
}
_OF_MAPS: dict[str, type[Segmentation]] = {Segmentation.name: Segmentation}
"""Those that have maps."""


def open_task(
    name: str, *, align_corners: bool = False, window: Sequence[int] | None = None
) -> Task:
    """Return the task of that name, as sources and manifests say it.

    Args:
        name: of the task.
        align_corners: how maps of logits are upsampled where labels are compared.
        window: height and width of windows that slide over the views of an evaluation; by default
            they are seen whole.

    Raises:
        UsageError: there is none (a newer kdcache may know it), a window that is none, or one of
            the two others where there are no maps.
    """
    choose(name, TASKS, "task")
    if not align_corners and window is None:
        return TASKS[name]
    if name not in _OF_MAPS:
        option = "align_corners" if align_corners else "eval_window"
        raise UsageError(f"{option} is not for {name}, which has no maps; leave it out")
    return _OF_MAPS[name](align_corners=align_corners, window=check_window(window))
