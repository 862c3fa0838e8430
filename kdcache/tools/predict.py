"""What a saved model sees in images, written to a file or a folder."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import MismatchError, UnreadableSampleError, UsageError, quoted
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.inference import run_on_device
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import Compute
from kdcache.runtime.launch import own_place
from kdcache.runtime.tables import CSV, PARQUET
from kdcache.runtime.wording import counted
from kdcache.shapes import Rows
from kdcache.sources import (
    AnnotationIds,
    Source,
    WithoutTargets,
    annotation_ids_of,
    open_plain_images,
    open_source,
)
from kdcache.targets import target_kind, task_of
from kdcache.tasks import Task, open_task
from kdcache.tasks.prediction_forms import RESULTS
from kdcache.tasks.predictions import Predictions, PredictionSettings
from kdcache.tools.opened_model import OpenedModel, model_of_own_classes
from kdcache.tools.predict_config import PredictConfig, check_apart, check_out, check_place
from kdcache.tools.saved_classes import known_task
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.views import Batch, Recipe, ViewDataset, ViewLoader

_MOST_TOLD = 10
"""Images that cannot be read, each told in a line of its own."""
_MOST_OUTSIDE = 0.5
"""Pixels of a view by which the edge of its image may lie outside."""


def predict_saved(config: PredictConfig) -> dict[str, Any]:
    """Write what a model sees in images, and return what was done.

    Of classification that is a table of the likeliest classes, of detection one of boxes or COCO's
    results, and of segmentation a folder of images of class indices. An image that cannot be read
    is left out, which is told.

    Returns:
        `model` (its spec), `task`, `data`, `recipe`, `out`, `images` (without those that are left
        out), `unreadable` (those), `classes` of the model, and `top_k`, `boxes` or `maps`.

    Raises:
        UsageError: settings that cannot be meant, or a recipe that leaves parts of images out.
        KdcacheError: a model, or data, that cannot be opened; or none of the images can be read.
    """
    if own_place().world_size > 1:
        raise UsageError("predict runs in one process; start it without torchrun")
    check_place(config)
    saved = find_model(config.model)
    data = saved.data_or_own(config.data)
    check_apart(config, data)
    images = config.images
    if images is None:
        source = open_source(data, needs_targets=False)
    else:
        source = open_plain_images(images)
    name = known_task(saved, config.task) or task_of(source)
    check_out(config, name)
    training, recipe = saved_recipes(saved, config.recipe, name)
    labelled = source if images is None and task_of(source) == name else None
    opened = model_of_own_classes(
        saved, config.classes, task=name, training=training, labelled=labelled
    )
    task = _task(config, saved, name)
    predictions = task.predictions(_settings(config, source, opened))
    num_images, num_unreadable = _predict(
        config,
        task=task,
        model=opened.model,
        predictions=predictions,
        source=source,
        recipe=recipe,
    )
    return {
        "model": saved.spec,
        "task": name,
        "data": data,
        "recipe": recipe.name,
        "out": config.out,
        "images": num_images,
        "unreadable": num_unreadable,
        "classes": opened.num_classes,
        **predictions.write(),
    }


def _task(config: PredictConfig, saved: SavedModel, name: str) -> Task:
    """Return the task as the user, or else the run, says that images are seen."""
    window = config.window
    align_corners = config.align_corners
    if saved.run is not None:
        window = window or saved.run.eval_window
        if align_corners is None:
            align_corners = saved.run.align_corners
    return open_task(name, align_corners=bool(align_corners), window=window)


def _settings(config: PredictConfig, source: Source, opened: OpenedModel) -> PredictionSettings:
    ids = None
    if config.ending == RESULTS:
        ids = _ids(source, opened)
    return PredictionSettings(
        out=Path(config.out),
        class_names=opened.class_names,
        ids=ids,
        keys=[source.key(index) for index in range(len(source))],
        top_k=config.top_k,
        threshold=config.threshold,
    )


def _ids(source: Source, opened: OpenedModel) -> AnnotationIds | None:
    """Return the ids that the annotations of a source have; None if they have none.

    Raises:
        MismatchError: they are of other classes than the model.
    """
    ids = annotation_ids_of(source)
    if ids is None:
        return None
    if len(ids.categories) != opened.num_classes:
        raise MismatchError(
            f"data {source.spec} has {counted(source.classes, 'class')}, and the model"
            f" {opened.num_classes}: results have the ids of the data's classes; give annotations"
            f" of the model's classes, or write a table, {CSV} or {PARQUET}"
        )
    opened.saved.require_order(source)
    return ids


def _predict(
    config: PredictConfig,
    *,
    task: Task,
    model: VisionModel,
    predictions: Predictions,
    source: Source,
    recipe: Recipe,
) -> tuple[int, int]:
    """Add what a model says of the images of a source, in their order; return how many these are,
    and how many cannot be read."""
    compute = Compute(config.compute)
    tells_frames = target_kind(task.name).follows_views
    images = WithoutTargets(source, tells_frames=tells_frames)
    check = None
    if tells_frames:
        check = partial(_require_whole, source=source, recipe=recipe)
    size = None if task.scores_whole_images else model.preprocessing.size
    order = np.arange(len(images))
    dataset = ViewDataset(images, recipe, order, sizes=[size], skip_unreadable=True)
    batch_size = 1  # of views as large as their images
    if recipe.at(size).size is not None:
        batch_size = settled_batch_size([model], dataset, order, compute, config.batch_size)
    loader = _loader(batch_size, dataset, order, compute)
    reasons: list[str] = []

    def begin(batch: Batch, wanted: list[list[Tensor]]) -> Callable[[], list[Tensor]]:
        return compute.fetch(wanted[0])

    def read_out(model: VisionModel, output: Any, batch: Batch) -> list[Tensor]:
        return predictions.read(output, batch)

    num_images = 0
    try:
        readable = _readable(loader, len(source), reasons, check)
        results = run_on_device(
            [model],
            readable,
            compute,
            begin=begin,
            read_out=read_out,
            forward=task.output,
        )
        for batch, fetched in results:
            keys = {}
            for place in batch.present_places.tolist():
                keys[place] = source.key(int(batch.rows[place]))
            predictions.add(fetched, batch, keys)
            num_images += len(keys)
    finally:
        loader.close()
    if not num_images:
        raise UnreadableSampleError(f"no image of {source.spec} can be read: {reasons[0]}")
    for reason in reasons[:_MOST_TOLD]:
        say(f"note: left out: {reason}")
    return num_images, len(reasons)


def _loader(batch_size: int, dataset: ViewDataset, rows: Rows, compute: Compute) -> ViewLoader:
    """Return the loader of some rows, in their order."""
    requests = []
    for start in range(0, len(rows), batch_size):
        requests.append([(int(row), 0) for row in rows[start : start + batch_size]])
    workers = compute.config.workers
    return ViewLoader(dataset, requests, workers=workers, pin_memory=compute.pin_memory)


def _readable(
    loader: ViewLoader,
    num_images: int,
    reasons: list[str],
    check: Callable[[Batch], None] | None,
) -> Iterator[Batch]:
    """Yield the batches in which an image could be read, checked, and add why others could not to
    `reasons`."""
    with progress("predictions", num_images, "images") as bar:
        for batch in loader:
            reasons += [reason for _, reason in batch.absent]
            if len(batch.present_places):
                if check is not None:
                    check(batch)
                yield batch
            bar.advance(len(batch.rows))


def _require_whole(batch: Batch, source: Source, recipe: Recipe) -> None:
    """Raise a UsageError if a view does not show all of its image, whose pixels or objects would be
    left out."""
    objects = batch.labels.objects
    assert objects is not None, "images are opened with where they are in their views"
    height, width = batch.views[0].shape[2:]
    for place in batch.present_places.tolist():
        sides = objects.frames[place].reshape(2, 2)
        corners = torch.tensor([[width, height]]) + _MOST_OUTSIDE
        is_inside = (sides >= -_MOST_OUTSIDE).all() and (sides <= corners).all()
        if not is_inside:
            key = source.key(int(batch.rows[place]))
            raise UsageError(
                f"recipe {recipe.name} shows a part of image {quoted(key)} only, and what a model"
                " sees is to be told of all of it; give --recipe segmentation-eval or"
                " detection-eval"
            )
