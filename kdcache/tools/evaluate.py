"""Scores of a model that is saved: of a run, or of any weights."""

from typing import Any

from kdcache.errors import UsageError
from kdcache.loader.class_map import read_class_map
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import AUTO
from kdcache.runtime.device import Compute, device_type
from kdcache.runtime.distributed import joined_processes, others_that_fail
from kdcache.sources import Source, open_source
from kdcache.targets import ClassLabel, task_of
from kdcache.tools.evaluate_config import EvaluateConfig
from kdcache.tools.mapped_model import MappedModel
from kdcache.tools.saved_classes import CLASSES_ADVICE, known_classes
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.train.evaluation import Evaluation
from kdcache.views import Recipe

_OTHER_CLASSES = (
    "give data of {given} classes, those of the model, or --class-map FILE, which says which are"
    " which"
)


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
    with joined_processes(device_type(config.compute.device)), others_that_fail():
        source = open_source(data)
        training, recipe = saved_recipes(saved, config.recipe, task_of(source))
        if config.class_map is None:
            saved.require_order(source)
            model: VisionModel | MappedModel = opened_model(saved, source, training)
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
        classes_advice=_OTHER_CLASSES,
    )


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
    classes, names = known_classes(saved, config.classes)
    model = open_model(
        saved.spec,
        classes=classes,
        recipe=training,
        trained=True,
        classes_advice=CLASSES_ADVICE,
    )
    assert model.num_classes is not None, "a model that is opened was tried"
    places = read_class_map(path, source, model.num_classes, teacher_names=names)
    return MappedModel(model, places, source.classes)
