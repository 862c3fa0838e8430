"""The classes of images, as a saved model sees them, in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.errors import UnreadableSampleError, UsageError
from kdcache.models.batch_trial import fastest_batch
from kdcache.models.inference import run_models
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import Compute
from kdcache.runtime.launch import own_place
from kdcache.shapes import Size
from kdcache.sources import Source, open_plain_images, open_source
from kdcache.sources.parquet_files import require_pyarrow
from kdcache.targets import ClassLabel, task_of
from kdcache.tools.predict_config import PARQUET, PredictConfig
from kdcache.tools.predictions import Predictions
from kdcache.tools.saved_classes import (
    CLASSES_ADVICE,
    known_classes,
    names_for,
    require_classifier,
)
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.views import Recipe, ViewDataset, ViewLoader

_MOST_TOLD = 10
"""Images that cannot be read, each told in a line of its own."""


def predict_saved(config: PredictConfig) -> dict[str, Any]:
    """Write the likeliest classes of images to a file, a line an image, and return what was done.

    An image that cannot be read has no line, which is told.

    Returns:
        `model` (its spec), `data`, `recipe`, `out`, `images` (lines), `unreadable` (images without
        one), `classes` of the model, and `top_k`.

    Raises:
        UsageError: settings that cannot be meant.
        KdcacheError: a model, or data, that cannot be opened; or none of the images can be read.
    """
    if own_place().world_size > 1:
        raise UsageError("predict runs in one process; start it without torchrun")
    saved = find_model(config.model)
    require_classifier(saved, "predict")
    out = Path(config.out)
    if config.ending == PARQUET:
        require_pyarrow()
    data = saved.data_or_own(config.data)
    images = config.images
    if images is not None:
        source = open_plain_images(images)
        labelled = None
    else:
        source = _opened(data)
        labelled = source
    training, recipe = saved_recipes(saved, config.recipe)
    classes, names = known_classes(saved, config.classes, labelled)
    model = open_model(
        saved.spec,
        classes=classes,
        recipe=training,
        trained=True,
        classes_advice=CLASSES_ADVICE,
    )
    predictions, num_unreadable = _predicted(
        config, saved, model, source=source, recipe=recipe, names=names
    )
    if config.ending == PARQUET:
        predictions.write_parquet(out)
    else:
        predictions.write_csv(out)
    return {
        "model": saved.spec,
        "data": data,
        "recipe": recipe.name,
        "out": config.out,
        "images": len(predictions.keys),
        "unreadable": num_unreadable,
        "classes": len(predictions.class_names),
        "top_k": len(predictions.classes[0]),
    }


def _opened(data: str) -> Source:
    """Return a source.

    Raises:
        UsageError: it is of another task than classification.
    """
    source = open_source(data)
    if task_of(source) != ClassLabel.task:
        raise UsageError(
            f"data {data} is for {task_of(source)}, and predict writes the classes of whole"
            " images; give the folder of the images alone"
        )
    return source


def _predicted(
    config: PredictConfig,
    saved: SavedModel,
    model: VisionModel,
    *,
    source: Source,
    recipe: Recipe,
    names: Sequence[str] | None,
) -> tuple[Predictions, int]:
    """Return what a model says of the images of a source, in their order, and how many cannot be
    read."""
    compute = Compute(config.compute)
    batch_size = fastest_batch(model, source, recipe, compute, config.batch_size)
    loader = _loader(batch_size, source, recipe, model.preprocessing.size, compute)
    predictions = Predictions([])
    reasons: list[str] = []
    try:
        with progress("predictions", len(source), "images") as bar:
            for batch, (logits,) in run_models([model], loader, compute):
                reasons += [reason for _, reason in batch.absent]
                if not predictions.class_names:
                    num_classes = logits.values.shape[-1]
                    predictions.class_names = names_for(saved, num_classes, names)
                places = batch.present_places
                keys = [source.key(int(row)) for row in batch.rows[places]]
                _add(predictions, config, keys, logits.values[places])
                bar.advance(len(batch.rows))
    finally:
        loader.close()
    if not predictions.keys:
        raise UnreadableSampleError(f"no image of {source.spec} can be read: {reasons[0]}")
    for reason in reasons[:_MOST_TOLD]:
        say(f"note: left out: {reason}")
    return predictions, len(reasons)


def _loader(
    batch_size: int, source: Source, recipe: Recipe, size: Size, compute: Compute
) -> ViewLoader:
    """Return the views of all images of a source, in their order."""
    order = np.arange(len(source))
    dataset = ViewDataset(source, recipe, order, sizes=[size], skip_unreadable=True)
    requests = []
    for start in range(0, len(source), batch_size):
        end = min(start + batch_size, len(source))
        requests.append([(row, 0) for row in range(start, end)])
    workers = compute.config.workers
    return ViewLoader(dataset, requests, workers=workers, pin_memory=compute.pin_memory)


def _add(
    predictions: Predictions, config: PredictConfig, keys: Sequence[str], logits: torch.Tensor
) -> None:
    """Add a batch of images.

    Args:
        predictions: that are added to.
        config: says how many classes of each image are told.
        keys: of the images.
        logits: of them, `[images, classes]`.
    """
    probabilities = torch.softmax(logits.float(), dim=1)
    top = probabilities.topk(config.count_shown(logits.shape[1]), dim=1)
    predictions.keys += keys
    predictions.classes.extend(top.indices.numpy())
    predictions.probabilities.extend(top.values.numpy())
