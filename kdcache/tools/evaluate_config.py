"""What `evaluate` does, and which data that is of a run; all of it without torch."""

from dataclasses import dataclass, field

from kdcache.errors import UsageError
from kdcache.loader.class_map import KnownClasses, read_class_map
from kdcache.models.specs import check_model
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.runtime.console import nothing_said
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.text_files import read_text
from kdcache.sources import check_source, class_names_of_spec
from kdcache.targets import ClassLabel
from kdcache.tools.saved_classes import known_classes, known_task
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.views import check_recipe


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    data: str | None = None
    """Spec of the source; by default the run's evaluation data."""
    class_map: str | None = None
    """For a classifier of other classes than the data's: a file of lines `class of the data,class
    of the model`."""
    classes: str | None = None
    """Of that classifier: their number, or a text file with a name on each line; by default what
    the weights say."""
    recipe: str | None = None
    """Of the views; by default the run's recipe of evaluation, else one for the task."""
    window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images of segmentation; by default the run's,
    else they are seen whole."""
    align_corners: bool | None = None
    """Whether maps of segmentation are upsampled so; by default as in the run, else not."""
    batch_size: BatchSize | None = None
    """Views of a batch; `auto` tries on the device how many are fastest. By default as in a
    dump."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)
        if self.classes is not None and self.class_map is None:
            raise UsageError(
                f"classes {self.classes!r} are for a model of other classes than the data's; give"
                " --class-map, too, or leave --classes out"
            )


def check_specs(config: EvaluateConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    saved = find_model(config.model)
    check_source(saved.data_or_own(config.data))
    if config.class_map is not None:
        task = known_task(saved, None) or ClassLabel.task
        if task != ClassLabel.task:
            raise UsageError(
                f"model {saved.spec} is of {task}, and class_map is for classifiers; leave it out"
            )
        _check_class_map(config.class_map, saved, config)
    check_model(saved.spec, asks_library=False, is_trained=True)
    if config.recipe is not None:
        check_recipe(config.recipe)


def _check_class_map(path: str, saved: SavedModel, config: EvaluateConfig) -> None:
    """Check a map of classes, as far as these are known.

    Raises:
        UsageError: it cannot be read, or does not fit.
    """
    num_classes, names = known_classes(saved, config.classes)
    data = saved.data_or_own(config.data)
    data_names = class_names_of_spec(data)
    if num_classes is None or data_names is None:
        read_text(path, "class map")
        return
    with nothing_said():
        read_class_map(path, KnownClasses(data, data_names), num_classes, teacher_names=names)
