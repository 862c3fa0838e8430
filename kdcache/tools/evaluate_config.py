"""What `evaluate` does, and which model and data that is of a run; all of it without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from kdcache.config.files import load_config
from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.models.specs import check_model
from kdcache.models.weight_record import ORIGINS, without_options
from kdcache.runtime.device import ComputeConfig
from kdcache.sources import check_source
from kdcache.train.config import TrainConfig
from kdcache.train.run_files import BEST_FILE, COMMAND, CONFIG_FILE, STUDENT_FILE
from kdcache.views import recipe_table


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    data: str | None = None
    """Spec of the source; by default the run's evaluation data."""
    recipe: str | None = None
    """Of the views; by default the run's recipe of evaluation, else `eval`."""
    window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images of segmentation; by default the run's,
    else they are seen whole."""
    align_corners: bool | None = None
    """Whether maps of segmentation are upsampled so; by default as in the run, else not."""
    batch_size: int = 256
    """Views of a batch."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be at least 1")


def check_specs(config: EvaluateConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    run = run_of(config)
    check_model(model_of(config, run), asks_library=False)
    check_source(data_of(config, run))
    if config.recipe is not None:
        recipe_table(config.recipe)


def run_of(config: EvaluateConfig) -> TrainConfig | None:
    """Return the settings of the run whose folder is named; None if a model's spec is.

    Raises:
        UsageError: the folder is no run.
    """
    folder = Path(config.model)
    if not folder.is_dir():
        return None
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UsageError(
            f"{folder} is no run: it has no {CONFIG_FILE}; give the folder of a run, or a model's"
            " spec"
        )
    return load_config(TrainConfig, COMMAND, file=str(file), flags={}, is_ours=True)


def model_of(config: EvaluateConfig, run: TrainConfig | None) -> str:
    """Return the spec of the model that is evaluated.

    Raises:
        KdcacheError: a run that has no weights yet.
    """
    return config.model if run is None else _student_of(Path(config.model), run)


def data_of(config: EvaluateConfig, run: TrainConfig | None) -> str:
    """Return the spec of the source that a model is evaluated on.

    Raises:
        UsageError: none is named.
    """
    data = config.data
    if data is None and run is not None:
        data = run.eval_data
    if data is None:
        raise UsageError("there is no data to evaluate on; give --data")
    return data


def _student_of(folder: Path, run: TrainConfig) -> str:
    """Return the spec of a run's student with its best weights, or the last ones.

    Raises:
        KdcacheError: it has none yet.
    """
    for name in (BEST_FILE, STUDENT_FILE):
        if (folder / name).is_file():
            spec = without_options(parse_spec(run.student), ORIGINS | {"weights_backbone"})
            options = {**spec.options, "weights": str(folder / name)}
            return str(Spec(spec.name, spec.arg, options))
    raise KdcacheError(
        f"run {folder} has no weights yet: neither {BEST_FILE} nor {STUDENT_FILE}; wait for its"
        " first epoch with evaluation, or its end"
    )
