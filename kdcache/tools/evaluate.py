"""Scores of a model that is saved: of a run, or of any weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcache.cache import open_cache
from kdcache.config.files import load_config
from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.loader.cache_specs import parse_cache
from kdcache.models.model import open_model
from kdcache.models.weight_record import ORIGINS, without_options
from kdcache.runtime.device import Compute, ComputeConfig, device_type
from kdcache.runtime.distributed import joined_processes, others_that_fail
from kdcache.sources import open_source
from kdcache.targets import task_of
from kdcache.train.config import TrainConfig
from kdcache.train.evaluation import Evaluation, evaluation_recipe
from kdcache.train.run_files import BEST_FILE, COMMAND, CONFIG_FILE, STUDENT_FILE
from kdcache.views import Recipe, load_recipe

_DEFAULT_RECIPE = "eval"


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


def evaluate_saved(config: EvaluateConfig) -> dict[str, Any]:
    """Return the scores of a saved model on a source.

    Returns:
        `model` (its spec), `data`, `recipe`, `samples`, `classes`, and `scores` by name: those of
        the task, see `train_student`; of classification also those of `ClassReport`.

    Raises:
        UsageError: data that must be named, or settings that cannot be meant.
        KdcacheError: a model, data or views that cannot be opened.
    """
    run = _run_of(config.model)
    model_spec = config.model
    data = config.data
    window = config.window
    align_corners = config.align_corners
    if run is not None:
        model_spec = _student_of(Path(config.model), run)
        data = data or run.eval_data
        window = window or run.eval_window
        if align_corners is None:
            align_corners = run.align_corners
    if data is None:
        raise UsageError("there is no data to evaluate on; give --data")
    with joined_processes(device_type(config.compute.device)), others_that_fail():
        source = open_source(data)
        training, recipe = _recipes(config, run)
        model = open_model(
            model_spec,
            classes=source.classes,
            recipe=training,
            trained=True,
            task=task_of(source),
        )
        compute = Compute(config.compute)
        evaluation = Evaluation(
            source,
            None,
            recipe,
            size=model.preprocessing.size,
            batch_size=config.batch_size,
            window=window,
            align_corners=bool(align_corners),
            compute=compute,
        )
        try:
            (scores,) = evaluation.scores([compute.place(model)], has_reports=True)
        finally:
            evaluation.close()
    return {
        "model": model_spec,
        "data": data,
        "recipe": recipe.name,
        "samples": len(source),
        "classes": source.classes,
        "scores": scores,
    }


def _run_of(model: str) -> TrainConfig | None:
    """Return the settings of the run whose folder is named; None of a model's spec."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UsageError(
            f"{folder} is no run: it has no {CONFIG_FILE}; give the folder of a run, or a model's"
            " spec"
        )
    return load_config(TrainConfig, COMMAND, file=str(file), flags={}, is_ours=True)


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


def _recipes(config: EvaluateConfig, run: TrainConfig | None) -> tuple[Recipe, Recipe]:
    """Return the recipe that a model is opened for, that of a run's training, and that of the
    views, the one that is named or that the run is evaluated with."""
    if run is None:
        recipe = load_recipe(config.recipe or _DEFAULT_RECIPE)
        return recipe, recipe
    if run.recipe is not None:
        training = load_recipe(run.recipe)
    else:
        training = open_cache(parse_cache(run.caches[0])[0]).recipe
    name = config.recipe or run.eval_recipe
    return training, evaluation_recipe(name, training, is_from_cache=run.recipe is None)
