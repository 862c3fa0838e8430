"""What `predict` does, checked without torch."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.files import require_new_folder, require_writable
from kdcache.runtime.tables import PARQUET
from kdcache.sources import check_source, path_of_images, require_beside, require_outside
from kdcache.sources.parquet_files import require_pyarrow
from kdcache.tasks.prediction_forms import FORMS, prediction_form, require_settings
from kdcache.tools.saved_classes import checked_saved, known_classes, known_task


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What `predict` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    out: str
    """What is written: a file, `.csv` or `.parquet`, or `.json` for COCO's results of detection; of
    segmentation a new folder."""
    data: str | None = None
    """A folder of images or one image, without labels, or the spec of a source; by default the
    run's evaluation data."""
    task: str | None = None
    """Of the model; by default what its weights say, else that of the labels of the data."""
    top_k: int | None = None
    """How many classes of each image are told; by default 5, or all if there are fewer."""
    threshold: float | None = None
    """The score from which a detection is told; by default all are that the detector gives."""
    window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images of segmentation; by default the run's,
    else they are seen whole."""
    align_corners: bool | None = None
    """Whether maps of segmentation are upsampled so; by default as in the run, else not."""
    classes: str | None = None
    """Their number, or a text file with a name on each line; by default what the weights say."""
    recipe: str | None = None
    """Of the views; by default the run's recipe of evaluation, else one for the task."""
    batch_size: BatchSize | None = None
    """Views of a batch; `auto` tries on the device how many are fastest. By default as in a dump.
    Of views as large as their images there is one in a batch."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; it must be at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold is {self.threshold:g}; it must be from 0 to 1")

    @property
    def ending(self) -> str:
        """What the name of the file ends with, in lower case."""
        return Path(self.out).suffix.lower()

    @property
    def images(self) -> str | None:
        """The path of the images without labels that are predicted; None of a source.

        Raises:
            UsageError: a path that is not there, or of which it cannot be told what it holds.
        """
        if self.data is None:
            return None
        return path_of_images(self.data)


def check_specs(config: PredictConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    check_place(config)
    saved = checked_saved(config.model, task=config.task, recipe=config.recipe)
    task = known_task(saved, config.task)
    if task is not None:
        check_out(config, task)
    data = saved.data_or_own(config.data)
    check_apart(config, data)
    if config.images is None:
        check_source(data)
    elif saved.is_silent or config.classes is not None:
        known_classes(saved, config.classes)


def check_out(config: PredictConfig, task: str) -> None:
    """Check that the predictions of a task can be written as the user says.

    Raises:
        UsageError: they are not written so, or have no such setting.
        KdcacheError: what writes them is not installed.
    """
    require_settings(task, asdict(config))
    form = prediction_form(task)
    if form.endings:
        choose(config.ending, form.endings, f"ending of {config.out}, of {task}")
    elif config.ending:
        raise UsageError(
            f"out is {config.out}, and {task} is written to a folder, an image each; name one, such"
            f" as {Path(config.out).stem}"
        )
    if config.ending == PARQUET:
        require_pyarrow()


def check_apart(config: PredictConfig, data: str) -> None:
    """Check that a folder of images does not come to lie among those that are predicted.

    Args:
        config: the prediction.
        data: what is predicted, a spec or a path.

    Raises:
        UsageError: it does.
    """
    if config.ending:
        return
    images = config.images
    if images is None:
        require_outside(config.out, "folder", data)
    elif Path(images).is_dir():
        require_beside(config.out, "folder", [images])


def check_place(config: PredictConfig) -> None:
    """Check that what is written has its place, whatever the task.

    Raises:
        UsageError: an ending that no table has, or a place that cannot be written.
    """
    if not config.ending:
        require_new_folder(Path(config.out))
        return
    endings: set[str] = set()
    for form in FORMS.values():
        endings.update(form.endings)
    choose(config.ending, sorted(endings), f"ending of {config.out}")
    require_writable(Path(config.out))
