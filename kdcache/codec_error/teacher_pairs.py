"""Pairs of logits from a teacher, and a student, run on views."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from kdcache.codec_error.pairs import (
    MAP_VIEWS,
    Pairs,
    PixelRows,
    pairs_of_pixels,
    pairs_of_two_views,
    pixels_of_view,
)
from kdcache.errors import UsageError
from kdcache.models.inference import run_models
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel, head_weight
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Logits, Rows
from kdcache.sources import Source, open_source
from kdcache.targets import target_kind, task_of
from kdcache.views import Batch, Recipe, ViewDataset, ViewLoader, load_recipe, row_order

_SEEDS = (0, 1)
_HOST = ComputeConfig(device="cpu")


def pairs_from_teacher(
    teacher: str,
    *,
    data: str,
    recipe: str,
    views: int,
    student: str | None = None,
    batch_size: int = 256,
    compute: ComputeConfig = _HOST,
) -> Pairs:
    """Return the logits of a teacher on `views` views: half as many samples, drawn at random, under
    two seeds.

    Args:
        teacher: spec of the teacher, with its weights.
        data: spec of the source.
        recipe: name or TOML file of the recipe.
        views: about how many views to take.
        student: spec of the proxy student, with its weights.
        batch_size: views of one forward pass.
        compute: where and how the models run.

    Raises:
        KdcacheError: something that cannot be opened, or does not fit together.
    """
    device = Compute(compute)
    view_recipe = load_recipe(recipe)
    source = open_source(data)
    require_rows(task_of(source))
    models = []
    for spec in (teacher, student):
        if spec is not None:
            model = open_model(spec, classes=source.classes, recipe=view_recipe, trained=True)
            models.append(model)
    return pairs_of_models(
        models, source, view_recipe, views=views, batch_size=batch_size, compute=device
    )


def pairs_of_models(
    models: Sequence[VisionModel],
    source: Source,
    recipe: Recipe,
    *,
    views: int,
    batch_size: int,
    compute: Compute,
    order_seed: int = 0,
) -> Pairs:
    """Return the logits of a teacher, and of a proxy student if `models` has two, on about
    `views` views under two seeds.

    Of maps it is so many pixels of fewer views, and the proxy is the teacher on the next pixel.
    """
    order = row_order(len(source), order_seed)
    if models[0].sites:
        size = models[0].preprocessing.size
        dataset = ViewDataset(source, recipe, order, sizes=[size], skip_unreadable=True)
        return _pairs_of_maps(models[0], dataset, views, batch_size, compute)
    sizes = [model.preprocessing.size for model in models]
    recipe.require_one_draw(*sizes)
    dataset = ViewDataset(source, recipe, order, sizes=sizes, skip_unreadable=True)
    rows = np.arange(min(len(source), max(views // len(_SEEDS), 1)))
    places, logits = run_on_views(models, dataset, views_of_rows(rows, _SEEDS), batch_size, compute)
    groups = np.tile(rows, len(_SEEDS))[places]
    head = head_weight(models[0], source.classes)
    if len(models) > 1:
        return Pairs(
            teacher=logits[0], student=logits[1], groups=groups, proxy=models[1].spec, head=head
        )
    first, second = logits[0].chunk(2)
    return replace(pairs_of_two_views(first, second, groups[: len(first)]), head=head)


def _pairs_of_maps(
    model: VisionModel, dataset: ViewDataset, num_pixels: int, batch_size: int, compute: Compute
) -> Pairs:
    """Return pixels of a teacher's maps, as many of each view, from places that are drawn at
    random, and their neighbours."""
    num_views = min(len(dataset), MAP_VIEWS)
    pixels_per_view = -(-num_pixels // num_views)
    views = [(row, 0) for row in range(num_views)]
    loader = _loader(dataset, views, batch_size, compute)
    parts: list[PixelRows] = []
    for batch, (logits,) in run_models([model], loader, compute):
        for position in _readable_positions(batch):
            row = int(batch.rows[position])
            positions = logits.rows_of(int(position))
            if len(positions):
                parts.append(pixels_of_view(positions, row, pixels_per_view))
    if not parts:
        raise UsageError(f"none of {num_views} samples of {dataset.source.spec} can be read")
    return replace(pairs_of_pixels(parts), activation=model.layout.activation)


def require_rows(task: str) -> None:
    """Raise a UsageError of a task whose views have more than one row of logits."""
    if "one" not in target_kind(task).layouts:
        raise UsageError(
            f"codec-error is for classification, not {task}; what a codec costs there"
            " dump-teacher --plan says"
        )


def run_on_views(
    models: Sequence[VisionModel],
    dataset: ViewDataset,
    views: Sequence[tuple[int, int]],
    batch_size: int,
    compute: Compute,
) -> tuple[Rows, list[Logits]]:
    """Return which of the views could be read, and the logits of each model on these."""
    place_parts: list[Rows] = []
    outputs: list[list[Logits]] = [[] for _ in models]
    with progress("views", len(views), "views") as bar:
        loader = _loader(dataset, views, batch_size, compute)
        for number, (batch, logits) in enumerate(run_models(models, loader, compute)):
            positions = _readable_positions(batch)
            place_parts.append(number * batch_size + positions)
            for output, part in zip(outputs, logits, strict=True):
                output.append(part.values[positions].float())
            bar.advance(len(batch.rows))
    places = np.concatenate(place_parts)
    num_absent = len(views) - len(places)
    if num_absent:
        say(f"note: {num_absent} of {len(views)} views are left out: their samples cannot be read")
    return places, [torch.cat(output) for output in outputs]


def _loader(
    dataset: ViewDataset, views: Sequence[tuple[int, int]], batch_size: int, compute: Compute
) -> ViewLoader:
    """Return a loader of views, so many at a time."""
    requests = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    return ViewLoader(
        dataset, requests, workers=compute.config.workers, pin_memory=compute.pin_memory
    )


def _readable_positions(batch: Batch) -> Rows:
    """Return the positions in a batch whose images could be read."""
    is_readable = np.ones(len(batch.rows), bool)
    for position, _ in batch.absent:
        is_readable[position] = False
    return np.flatnonzero(is_readable)


def views_of_rows(rows: Rows, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Return the views, (row, seed), of the rows under each seed."""
    views: list[tuple[int, int]] = []
    for seed in seeds:
        views += [(int(row), seed) for row in rows]
    return views
