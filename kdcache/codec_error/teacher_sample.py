"""A sample of a teacher's logits, and a student's, from models that are run on views."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch

from kdcache.codec_error.ladder import most_positions
from kdcache.codec_error.pairs import Pairs, pairs_of_two_views
from kdcache.codec_error.position_sample import (
    MAP_VIEWS,
    PositionSample,
    measured_rows,
    next_place_text,
    position_sample,
    positions_of_views,
)
from kdcache.codec_error.sample import Sample
from kdcache.codec_error.sample_run import SampleRun
from kdcache.errors import UsageError
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.inference import ModelsOnViews
from kdcache.models.model import open_model
from kdcache.models.vision_model import TeacherLogits, VisionModel, head_weight
from kdcache.positions import Layout
from kdcache.runtime.batch_size import BatchSize, limited_on_cpu
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Logits, Rows
from kdcache.sources import Source, open_source
from kdcache.sources.index_cache import Arrays
from kdcache.targets import task_of
from kdcache.views import Batch, Recipe, ViewDataset, load_recipe, row_order
from kdcache.views.dataset import Request

VIEWS = 4096
"""Views of one row each that are taken, where no number is said."""
_SEEDS = (0, 1)
_HOST = ComputeConfig(device="cpu")


def sample_from_teacher(
    teacher: str,
    *,
    data: str,
    recipe: str,
    views: int | None = None,
    codecs: Sequence[str] = (),
    student: str | None = None,
    batch_size: BatchSize = 256,
    compute: ComputeConfig = _HOST,
) -> Sample:
    """Return the logits of a teacher on views: of classification of half as many samples, drawn at
    random, under two seeds; of maps and boxes as `sample_of_models` has them.

    Args:
        teacher: spec of the teacher, with its weights.
        data: spec of the source.
        recipe: name or TOML file of the recipe.
        views: about how many views to take; by default 4,096, of maps and boxes 64.
        codecs: specs of those that are to be fitted to positions, by default those of the ladder.
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
    models = []
    for spec in (teacher, student):
        if spec is not None:
            model = open_model(
                spec,
                classes=source.classes,
                recipe=view_recipe,
                trained=True,
                task=task_of(source),
            )
            models.append(model)
    layout = models[0].layout
    for model in models[1:]:
        require_alike(model, layout)
    num_rows = views or VIEWS
    if layout.sites:
        num_rows = most_positions(codecs, layout.row_width(source.classes), layout)
    sizes = [model.preprocessing.size for model in models]
    return sample_of_models(
        models,
        source,
        view_recipe,
        num_rows=num_rows,
        map_views=views or MAP_VIEWS,
        batch_size=limited_on_cpu(batch_size, device.device.type, sizes),
        compute=device,
    )


def require_alike(student: VisionModel, layout: Layout) -> None:
    """Check that a proxy student's logits can be compared with a teacher's, position by position.

    Args:
        student: the model.
        layout: of the teacher's logits.

    Raises:
        UsageError: they lie otherwise.
    """
    if layout.has_boxes:
        raise UsageError(
            f"student {student.spec} has proposals of its own, and codecs are measured at the"
            " teacher's; leave student out:"
            f" {next_place_text(layout)} is in its place"
        )
    if student.layout != layout:
        raise UsageError(
            f"logits of student {student.spec} do not lie as the teacher's:"
            f" {student.layout.contrast(layout)}; choose one whose logits do, or leave student out:"
            f" {next_place_text(layout)} is in its place"
        )


def sample_of_models(
    models: Sequence[VisionModel],
    source: Source,
    recipe: Recipe,
    *,
    num_rows: int,
    batch_size: BatchSize,
    compute: Compute,
    order_seed: int = 0,
    map_views: int = MAP_VIEWS,
    skip_unreadable: bool = True,
    sample: SampleRun | None = None,
) -> Sample:
    """Return the logits of a teacher, and of a proxy student if `models` has two, on views under
    two seeds, of maps and boxes under one.

    Args:
        models: the teacher, and a proxy student.
        source: of the views.
        recipe: of the views.
        num_rows: about how many rows to take: views, or positions of `map_views` views.
        batch_size: views of one forward pass; `auto` tries how many are fastest.
        compute: where and how the models run.
        order_seed: key of the order of which the first rows are taken.
        map_views: views whose positions are taken.
        skip_unreadable: whether views of samples that cannot be read are left out.
        sample: what may be known of the sample, or limit it; by default nothing.

    Raises:
        UnreadableSampleError: a sample that cannot be read, unless these are left out.
    """
    order = row_order(len(source), order_seed)
    sizes = [model.preprocessing.size for model in models]
    recipe.require_one_draw(*sizes)
    dataset = ViewDataset(source, recipe, order, sizes=sizes, skip_unreadable=skip_unreadable)
    seeds: Sequence[int] = _SEEDS
    most = max(num_rows // len(_SEEDS), 1)
    if models[0].sites:
        seeds = _SEEDS[:1]
        most = map_views
    rows = np.arange(min(len(source), most))
    batch = settled_batch_size(models, dataset, rows, compute, batch_size)
    requests = batches_of_rows(rows, seeds, batch)
    run = sample or SampleRun()
    on_views = ModelsOnViews(models, dataset, compute)
    if models[0].sites:
        return _positions(on_views, rows, requests, run=run, num_rows=num_rows)
    return _pairs(on_views, requests, run)


def _pairs(on_views: ModelsOnViews, requests: Sequence[Request], run: SampleRun) -> Pairs:
    """Return the rows of views under two seeds."""
    models = on_views.models
    ran = run_on_views(on_views, requests, run)
    first, second = ran.by_seed(_SEEDS)
    pairs = pairs_of_two_views(first.logits[0], second.logits[0], first.rows)
    if len(models) > 1:
        student = torch.cat([first.logits[1], second.logits[1]])
        pairs = replace(pairs, student=student, proxy=models[1].spec)
    return replace(pairs, head=head_weight(models[0], on_views.dataset.source.classes))


def _positions(
    on_views: ModelsOnViews,
    rows: Rows,
    requests: Sequence[Request],
    *,
    run: SampleRun,
    num_rows: int,
) -> PositionSample:
    """Return positions of views, as many of each, and some views whole."""
    models = on_views.models
    layout = models[0].layout
    count = -(-num_rows // len(rows))

    def gathered(batch: Batch, logits: list[TeacherLogits]) -> Arrays:
        places = batch.present_places
        of_batch = batch.rows.numpy()[places]
        whole_rows = measured_rows(rows, layout, logits[0].values.shape[-1])
        student = None
        if len(logits) > 1:
            student = logits[1].values[places[np.isin(of_batch, whole_rows)]]
        return positions_of_views(
            logits[0].at(places), of_batch, count=count, whole_rows=whole_rows, student=student
        )

    parts = run.parts(on_views, requests, gathered)
    proxy = None
    if len(models) > 1:
        proxy = models[1].spec
    sample = position_sample(parts, layout, proxy=proxy)
    if not len(sample.teacher):
        spec = on_views.dataset.source.spec
        raise UsageError(f"no sample of {spec} can be read of those to measure on")
    return sample


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
    on_views: ModelsOnViews, requests: Sequence[Request], sample: SampleRun | None = None
) -> RanViews:
    """Return what models give of the views that can be read, batch by batch."""
    sample = sample or SampleRun()

    def gathered(batch: Batch, logits: list[TeacherLogits]) -> Arrays:
        places = batch.present_places
        arrays = {"rows": batch.rows.numpy()[places], "seeds": batch.seeds.numpy()[places]}
        for name, of_model in zip(("teacher", "student"), logits, strict=False):
            arrays[name] = of_model.values[places].float().numpy()
        return arrays

    parts = sample.parts(on_views, requests, gathered, step=len(_SEEDS))
    num_views = sum(map(len, requests[: len(parts)]))
    rows = np.concatenate([part["rows"] for part in parts])
    if num_absent := num_views - len(rows):
        say(f"note: {num_absent} of {num_views} views are left out: their samples cannot be read")
    logits = []
    for name in ("teacher", "student")[: len(on_views.models)]:
        logits.append(torch.from_numpy(np.concatenate([part[name] for part in parts])))
    return RanViews(rows, np.concatenate([part["seeds"] for part in parts]), logits)


def batches_of_rows(rows: Rows, seeds: Sequence[int], batch_size: int) -> list[Request]:
    """Return batches of the rows under each seed, those of the same rows one after the other."""
    requests: list[Request] = []
    for start in range(0, len(rows), batch_size):
        for seed in seeds:
            requests.append([(int(row), seed) for row in rows[start : start + batch_size]])
    return requests
