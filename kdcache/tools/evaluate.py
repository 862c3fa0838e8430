"""Scores of a model that is saved: of a run, or of any weights."""

from typing import Any

from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.device import Compute, device_type
from kdcache.runtime.distributed import joined_processes, others_that_fail
from kdcache.sources import Source, open_source
from kdcache.targets import task_of
from kdcache.tools.evaluate_config import EvaluateConfig
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.train.evaluation import Evaluation
from kdcache.views import Recipe


def evaluate_saved(config: EvaluateConfig) -> dict[str, Any]:
    """Return the scores of a saved model on a source.

    Returns:
        `model` (its spec), `data`, `recipe`, `samples`, `classes`, and `scores` by name: those of
        the task, see `train_student`; of classification also those of `ClassReport`.

    Raises:
        UsageError: data that must be named, or settings that cannot be meant.
        KdcacheError: a model, data or views that cannot be opened.
    """
    saved = find_model(config.model)
    run = saved.run
    data = saved.data_or_own(config.data)
    window = config.window
    align_corners = config.align_corners
    if run is not None:
        window = window or run.eval_window
        if align_corners is None:
            align_corners = run.align_corners
    with joined_processes(device_type(config.compute.device)), others_that_fail():
        source = open_source(data)
        saved.require_order(source)
        training, recipe = saved_recipes(saved, config.recipe, task_of(source))
        model = opened_model(saved, source, training)
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
            class_names=saved.label_names,
        )
        try:
            (scores,) = evaluation.scores([compute.place(model)], has_reports=True)
        finally:
            evaluation.close()
    return {
        "model": saved.spec,
        "data": data,
        "recipe": recipe.name,
        "samples": len(source),
        "classes": source.classes,
        "scores": scores,
    }


def opened_model(saved: SavedModel, source: Source, training: Recipe) -> VisionModel:
    """Return a saved model that is scored on a source.

    Args:
        saved: the model.
        source: of the model's task and classes.
        training: the recipe that it was trained for, which gives channels and input size.

    Raises:
        KdcacheError: it cannot be opened, or is of other classes.
    """
    return open_model(
        saved.spec,
        classes=source.classes,
        recipe=training,
        trained=True,
        task=task_of(source),
        classes_advice="give data of {given} classes, those of the model",
    )
