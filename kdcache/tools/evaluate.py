"""Scores of a model that is saved: of a run, or of any weights."""

from typing import Any

from kdcache.cache import open_cache
from kdcache.loader.cache_specs import parse_cache
from kdcache.models.model import open_model
from kdcache.runtime.device import Compute, device_type
from kdcache.runtime.distributed import joined_processes, others_that_fail
from kdcache.sources import open_source
from kdcache.targets import task_of
from kdcache.tools.evaluate_config import EvaluateConfig, data_of, model_of, run_of
from kdcache.train.config import TrainConfig
from kdcache.train.evaluation import Evaluation, evaluation_recipe
from kdcache.views import Recipe, load_recipe

_DEFAULT_RECIPE = "eval"


def evaluate_saved(config: EvaluateConfig) -> dict[str, Any]:
    """Return the scores of a saved model on a source.

    Returns:
        `model` (its spec), `data`, `recipe`, `samples`, `classes`, and `scores` by name: those of
        the task, see `train_student`; of classification also those of `ClassReport`.

    Raises:
        UsageError: data that must be named, or settings that cannot be meant.
        KdcacheError: a model, data or views that cannot be opened.
    """
    run = run_of(config)
    model_spec = model_of(config, run)
    data = data_of(config, run)
    window = config.window
    align_corners = config.align_corners
    if run is not None:
        window = window or run.eval_window
        if align_corners is None:
            align_corners = run.align_corners
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
            sizes=[model.preprocessing.size],
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
