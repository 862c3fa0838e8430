"""Which class of model a task has."""

from kdcache.models.detection import DetectionModel
from kdcache.models.vision_model import MapModel, VisionModel
from kdcache.targets import target_kind

_BY_LAYOUT: dict[str, type[VisionModel]] = {
    "one": VisionModel,
    "heads": MapModel,
    "pyramid": DetectionModel,
    "proposals": DetectionModel,
}


def model_class(task: str) -> type[VisionModel]:
    """Return the class of a task's models.

    Raises:
        UsageError: there is no such task.
    """
    layouts = target_kind(task).layouts
    (model,) = {_BY_LAYOUT[layout] for layout in layouts}
    return model
