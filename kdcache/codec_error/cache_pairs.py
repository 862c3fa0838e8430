"""Pairs of logits from the records of a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.cache.sample_checksums import checked_source
from kdcache.cache.source_check import require_source
from kdcache.codec_error.measured_logits import measured_seeds
from kdcache.codec_error.pairs import (
    MAP_VIEWS,
    Pairs,
    pairs_of_pixels,
    pairs_of_two_views,
    pixels_of_view,
)
from kdcache.codec_error.teacher_pairs import batches_of_rows, run_on_views
from kdcache.codec_error.whole_views import WHOLE_VIEWS, whole_views
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.model import open_model
from kdcache.runtime.batch_size import BatchSize, limited_on_cpu
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Records, Rows, ViewLogits
from kdcache.sources import open_source
from kdcache.views import ViewDataset

_HOST = ComputeConfig(device="cpu")


def pairs_from_cache(
    path: str | Path,
    *,
    views: int,
    student: str | None = None,
    data: str | None = None,
    batch_size: BatchSize = 256,
    compute: ComputeConfig = _HOST,
) -> Pairs:
    """Return rows of a `full` cache: of its first two complete seeds, or of one if a student is
    given.

    Args:
        path: the cache.
        views: about how many rows to take.
        student: spec of the proxy student, with its weights.
        data: spec of the cache's source, whose images the student looks at.
        batch_size: views of one of the student's forward passes at most, on a CPU fewer large
            ones; `auto` tries how many are fastest.
        compute: where and how the student runs.

    Raises:
        CacheError: no such cache, or one that does not hold exact logits of enough seeds.
        UsageError: a student without data, or the other way round.
        MismatchError: data that is not that of the cache.
    """
    cache = open_cache(path)
    seeds = measured_seeds(cache, student=student, data=data)
    if student is None or data is None:
        return pairs_of_cache(cache, views=views)
    return _pairs_with_student(
        cache,
        seeds[0],
        student,
        data,
        views=views,
        batch_size=batch_size,
        compute=Compute(compute),
    )


def _pairs_with_student(
    cache: Cache,
    seed: int,
    student: str,
    data: str,
    *,
    views: int,
    batch_size: BatchSize,
    compute: Compute,
) -> Pairs:
    """Return rows of a seed, with the logits of a student on the same views."""
    rows = _first_rows(cache, [seed], views)
    recipe = cache.recipe
    source = open_source(data)
    require_source(cache, source)
    source = checked_source([cache], source)
    model = open_model(student, classes=source.classes, recipe=recipe, trained=True)
    recipe.require_one_draw(model.preprocessing.size, cache.manifest.input_size)
    dataset = ViewDataset(
        source, recipe, cache.order, sizes=[model.preprocessing.size], skip_unreadable=True
    )
    limited = limited_on_cpu(batch_size, compute.device.type, [model.preprocessing.size])
    size = settled_batch_size([model], dataset, rows, compute, limited)
    requests = batches_of_rows(rows, [seed], size)
    ran = run_on_views([model], dataset, requests, compute)
    is_read = np.isin(rows, ran.rows)
    return Pairs(
        teacher=_decoded_rows(cache, seed, rows)[is_read],
        student=ran.logits[0],
        groups=ran.rows,
        proxy=student,
    )


def pairs_of_cache(cache: Cache, *, views: int) -> Pairs:
    """Return about `views` rows of a cache's first two complete seeds, as its records have them.

    Of a single seed the teacher is its own proxy, which is enough to fit a codec on and not to
    measure one. Of maps it is so many pixels of the first seed, and the proxy is the teacher on
    the next pixel; likewise of other positions.

    Args:
        cache: a cache with a complete seed.
        views: about how many rows to take.
    """
    seeds = cache.complete_seeds()[:2]
    if cache.manifest.layout.sites:
        return _pairs_of_positions(cache, seeds[0], views)
    rows = _first_rows(cache, seeds, views)
    logits = _decoded_rows(cache, seeds[0], rows)
    if len(seeds) == 1:
        return Pairs(
            teacher=logits, student=logits, groups=rows, proxy="the teacher on the same view"
        )
    return pairs_of_two_views(logits, _decoded_rows(cache, seeds[1], rows), rows)


def _pairs_of_positions(cache: Cache, seed: int, count: int) -> Pairs:
    """Return about `count` pixels or other positions of a seed, as many of each view."""
    rows = _first_rows(cache, [seed], min(count, MAP_VIEWS))
    count_of_view = -(-count // len(rows))
    layout = cache.manifest.layout
    parts = []
    whole: list[Tensor] = []
    for row, logits in _decoded_views(cache, seed, rows):
        if len(whole) < WHOLE_VIEWS:
            whole.append(logits)
        positions = logits
        if layout.has_boxes:
            # where a view has fewer proposals than it may have, zeros stand
            positions = logits[logits.any(1)]
        if len(positions):
            parts.append(pixels_of_view(positions, row, count_of_view))
    views = whole_views(whole, layout)
    return replace(pairs_of_pixels(parts), activation=layout.activation, views=views)


def _first_rows(cache: Cache, seeds: Sequence[int], views: int) -> Rows:
    """Return the first rows, a random sample as all are in random order, of which each seed holds a
    record."""
    absent: list[int] = []
    for seed in seeds:
        for commit in cache.commits(seed):
            absent += [absence.row for absence in commit.absent]
    num_rows = max(views // len(seeds), 1)
    return np.setdiff1d(np.flatnonzero(cache.is_held)[:num_rows], absent)


def _decoded_rows(cache: Cache, seed: int, rows: Rows) -> ViewLogits:
    """Return the logits of `rows`, in rising order."""
    parts = []
    for _, records in _records_by_unit(cache, seed, rows):
        parts.append(cache.codec.decode(records).logits())
    return torch.cat(parts)


def _decoded_views(cache: Cache, seed: int, rows: Rows) -> Iterator[tuple[int, Tensor]]:
    """Yield each of `rows`, in rising order, with its logits, one decoded at a time: those of many
    positions are large."""
    for unit_rows, records in _records_by_unit(cache, seed, rows):
        for place, row in enumerate(unit_rows):
            yield int(row), cache.codec.decode(records[[place]]).logits()[0]


def _records_by_unit(cache: Cache, seed: int, rows: Rows) -> Iterator[tuple[Rows, Records]]:
    """Yield those of `rows` that each unit holds, and their records; no other unit is read."""
    for unit in range(cache.manifest.num_units):
        unit_range = cache.manifest.unit_range(unit)
        unit_rows = rows[(rows >= unit_range.start) & (rows < unit_range.stop)]
        if len(unit_rows):
            records = cache.read_unit(cache.commit_of(seed, unit))
            yield unit_rows, records[unit_rows - unit_range.start]
