"""Scores of a model that is saved: of a run, or of any weights."""

from typing import Any

from kdcache.errors import UsageError
from kdcache.loader.class_map import read_class_map
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import AUTO
from kdcache.runtime.device import Compute, named_device
from kdcache.runtime.distributed import joined_processes, others_that_fail
from kdcache.sources import Source, open_source
from kdcache.targets import ClassLabel, task_of
from kdcache.tools.evaluate_config import EvaluateConfig
from kdcache.tools.mapped_model import MappedModel
from kdcache.tools.opened_model import model_of_own_classes, model_of_source
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.train.evaluation import Evaluation
from kdcache.views import Recipe


def evaluate_saved(config: EvaluateConfig) -> dict[str, Any]:
    """Return the scores of a saved model on a source.

    Returns:
        `model` (its spec), `data`, `class_map` (a file, or None), `recipe`, `samples`, `classes`
        (of the data), and `scores` by name: those of the task, see `train_student`; of
        classification also those of `ClassReport`.

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
    with joined_processes(named_device(config.compute.device)), others_that_fail():
        source = open_source(data)
        training, recipe = saved_recipes(saved, config.recipe, task_of(source))
        if config.class_map is None:
            saved.require_order(source)
            model: VisionModel | MappedModel = model_of_source(saved, source, training)
            class_names = saved.label_names
        else:
            model = _opened_through_map(config, saved, source, training)
            class_names = None
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
            class_names=class_names,
        )
        try:
            placed = compute.place(model)
            if config.batch_size == AUTO:
                evaluation.take_fastest_batches(model)
            (scores,) = evaluation.scores([placed], has_reports=True)
        finally:
            evaluation.close()
    return {
        "model": saved.spec,
        "data": data,
        "class_map": config.class_map,
        "recipe": recipe.name,
        "samples": len(source),
        "classes": source.classes,
        "scores": scores,
    }


def _opened_through_map(
    config: EvaluateConfig, saved: SavedModel, source: Source, training: Recipe
) -> MappedModel:
    """Return a saved classifier of other classes than a source's, through a map of classes.

    Raises:
        UsageError: a source of another task, or a map that does not fit.
        KdcacheError: a model that cannot be opened.
    """
    path = str(config.class_map)
    if task_of(source) != ClassLabel.task:
        raise UsageError(
            f"class map {path} is for classification, and data {source.spec} is for"
            f" {task_of(source)}; leave it out"
        )
    opened = model_of_own_classes(saved, config.classes, task=ClassLabel.task, training=training)
    places = read_class_map(path, source, opened.num_classes, teacher_names=opened.stated_names)
    return MappedModel(opened.model, places, source.classes)
