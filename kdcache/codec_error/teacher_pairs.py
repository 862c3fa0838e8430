"""Pairs of logits from a teacher, and a student, run on views."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcache.codec_error.measured_logits import require_rows
from kdcache.codec_error.pairs import (
    MAP_VIEWS,
    Pairs,
    PixelRows,
    pairs_of_pixels,
    pairs_of_two_views,
    pixels_of_view,
)
from kdcache.codec_error.sample_run import Gathered, SampleRun
from kdcache.codec_error.whole_views import num_whole_views, whole_views
from kdcache.errors import UsageError
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.model import open_model
from kdcache.models.vision_model import TeacherLogits, VisionModel, head_weight
from kdcache.runtime.batch_size import BatchSize, limited_on_cpu
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Logits, Rows
from kdcache.sources import Source, open_source
from kdcache.sources.index_cache import Arrays
from kdcache.targets import task_of
from kdcache.views import Batch, Recipe, ViewDataset, load_recipe, row_order
from kdcache.views.dataset import Request

_SEEDS = (0, 1)
_HOST = ComputeConfig(device="cpu")


def pairs_from_teacher(
    teacher: str,
    *,
    data: str,
    recipe: str,
    views: int,
    student: str | None = None,
    batch_size: BatchSize = 256,
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
        batch_size: views of one forward pass at most, on a CPU fewer large ones; `auto` tries how
            many are fastest.
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
    sizes = [model.preprocessing.size for model in models]
    size = limited_on_cpu(batch_size, device.device.type, sizes)
    return pairs_of_models(
        models, source, view_recipe, views=views, batch_size=size, compute=device
    )


def pairs_of_models(
    models: Sequence[VisionModel],
    source: Source,
    recipe: Recipe,
    *,
    views: int,
    batch_size: BatchSize,
    compute: Compute,
    order_seed: int = 0,
    map_views: int = MAP_VIEWS,
    skip_unreadable: bool = True,
    sample: SampleRun | None = None,
) -> Pairs:
    """Return the logits of a teacher, and of a proxy student if `models` has two, on about
    `views` views under two seeds.

    Of maps it is so many pixels of `map_views` views, and the proxy is the teacher on the next
    pixel.

    Args:
        models: the teacher, and a proxy student.
        source: of the views.
        recipe: of the views.
        views: about how many.
        batch_size: views of one forward pass; `auto` tries how many are fastest.
        compute: where and how the models run.
        order_seed: key of the order of which the first rows are taken.
        map_views: views whose pixels are taken.
        skip_unreadable: whether views of samples that cannot be read are left out.
        sample: what may be known of the sample, or limit it; by default nothing.

    Raises:
        UnreadableSampleError: a sample that cannot be read, unless these are left out.
    """
    order = row_order(len(source), order_seed)
    sample = sample or SampleRun()
    if models[0].sites:
        size = models[0].preprocessing.size
        dataset = ViewDataset(source, recipe, order, sizes=[size], skip_unreadable=skip_unreadable)
        rows = np.arange(min(len(source), map_views))
        batch = settled_batch_size(models, dataset, rows, compute, batch_size)
        requests = batches_of_rows(rows, [0], batch)

        def parts_of(gathered: Gathered) -> list[Arrays]:
            return sample.parts(models, dataset, requests, gathered, compute)

        pixels_per_view = -(-views // sum(map(len, requests)))
        return _pairs_of_maps(models[0], source, pixels_per_view, parts_of)
    sizes = [model.preprocessing.size for model in models]
    recipe.require_one_draw(*sizes)
    dataset = ViewDataset(source, recipe, order, sizes=sizes, skip_unreadable=skip_unreadable)
    rows = np.arange(min(len(source), max(views // len(_SEEDS), 1)))
    batch = settled_batch_size(models, dataset, rows, compute, batch_size)
    requests = batches_of_rows(rows, _SEEDS, batch)
    ran = run_on_views(models, dataset, requests, compute, sample)
    first, second = ran.by_seed(_SEEDS)
    head = head_weight(models[0], source.classes)
    pairs = pairs_of_two_views(first.logits[0], second.logits[0], first.rows)
    if len(models) > 1:
        student = torch.cat([first.logits[1], second.logits[1]])
        pairs = replace(pairs, student=student, proxy=models[1].spec)
    return replace(pairs, head=head)


def _pairs_of_maps(
    model: VisionModel,
    source: Source,
    pixels_per_view: int,
    parts_of: Callable[[Gathered], list[Arrays]],
) -> Pairs:
    """Return pixels of a teacher's maps, as many of each view, from places that are drawn at
    random, and their neighbours."""

    def gathered(batch: Batch, logits: list[TeacherLogits]) -> Arrays:
        return _pixels_of_batch(model, batch, logits[0], pixels_per_view)

    pixels: list[PixelRows] = []
    whole: list[Tensor] = []
    for part in parts_of(gathered):
        teacher = torch.from_numpy(part["teacher"])
        student = torch.from_numpy(part["student"])
        pixels.append((teacher, student, part["rows"]))
        whole += torch.from_numpy(part["whole"])
    pairs = pairs_of_pixels(pixels)
    if not len(pairs.teacher):
        raise UsageError(f"no sample of {source.spec} can be read of those to measure on")
    views = None
    if whole:
        views = whole_views(whole, model.layout)
    return replace(pairs, activation=model.layout.activation, views=views)


def _pixels_of_batch(
    model: VisionModel, batch: Batch, logits: TeacherLogits, pixels_per_view: int
) -> Arrays:
    """Return pixels of the views of a batch that could be read, their neighbours and rows; and the
    first views of the sample whole."""
    width = logits.values.shape[-1]
    none = torch.zeros(0, width)
    parts: list[PixelRows] = [(none, none, np.zeros(0, np.int64))]
    whole = []
    for place in batch.present_places.tolist():
        row = int(batch.rows[place])
        positions = logits.rows_of(place)
        if len(positions):
            parts.append(pixels_of_view(positions, row, pixels_per_view))
        if row < num_whole_views(model.layout, width):
            whole.append(positions.float().reshape(-1, width))
    teacher, student, rows = zip(*parts, strict=True)
    return {
        "teacher": torch.cat(teacher).numpy(),
        "student": torch.cat(student).numpy(),
        "rows": np.concatenate(rows),
        "whole": torch.stack(whole).numpy() if whole else np.zeros((0, 1, width), np.float32),
    }


class RanViews(NamedTuple):
    """Views that could be read, and what models gave of them."""

    rows: Rows
    seeds: Rows
    logits: list[Logits]
    """Of each model."""

    def by_seed(self, seeds: Sequence[int]) -> "list[RanViews]":
        """Return the views of each seed, of the rows that have one under every seed."""
        rows = reduce(np.intersect1d, [self.rows[self.seeds == seed] for seed in seeds])
        parts = []
        for seed in seeds:
            places = np.flatnonzero((self.seeds == seed) & np.isin(self.rows, rows))
            logits = [of_model[places] for of_model in self.logits]
            parts.append(RanViews(self.rows[places], self.seeds[places], logits))
        return parts


def run_on_views(
    models: Sequence[VisionModel],
    dataset: ViewDataset,
    requests: Sequence[Request],
    compute: Compute,
    sample: SampleRun | None = None,
) -> RanViews:
    """Return what models give of the views that can be read, batch by batch."""
    sample = sample or SampleRun()

    def gathered(batch: Batch, logits: list[TeacherLogits]) -> Arrays:
        places = batch.present_places
        arrays = {"rows": batch.rows.numpy()[places], "seeds": batch.seeds.numpy()[places]}
        for name, of_model in zip(("teacher", "student"), logits, strict=False):
            arrays[name] = of_model.values[places].float().numpy()
        return arrays

    parts = sample.parts(models, dataset, requests, gathered, compute, step=len(_SEEDS))
    num_views = sum(map(len, requests[: len(parts)]))
    rows = np.concatenate([part["rows"] for part in parts])
    if num_absent := num_views - len(rows):
        say(f"note: {num_absent} of {num_views} views are left out: their samples cannot be read")
    logits = []
    for name in ("teacher", "student")[: len(models)]:
        logits.append(torch.from_numpy(np.concatenate([part[name] for part in parts])))
    return RanViews(rows, np.concatenate([part["seeds"] for part in parts]), logits)


def batches_of_rows(rows: Rows, seeds: Sequence[int], batch_size: int) -> list[Request]:
    """Return batches of the rows under each seed, those of the same rows one after the other."""
    requests: list[Request] = []
    for start in range(0, len(rows), batch_size):
        for seed in seeds:
            requests.append([(int(row), seed) for row in rows[start : start + batch_size]])
    return requests
