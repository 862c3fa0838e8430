"""A sample of the logits that a cache's records hold."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from kdcache.cache import Cache, open_cache
from kdcache.cache.sample_checksums import checked_source
from kdcache.cache.source_check import require_source
from kdcache.codec_error.ladder import most_positions
from kdcache.codec_error.measured_logits import measured_seeds
from kdcache.codec_error.pairs import Pairs, pairs_of_two_views
from kdcache.codec_error.position_sample import (
    MAP_VIEWS,
    PositionSample,
    measured_rows,
    position_sample,
    positions_of_views,
)
from kdcache.codec_error.sample import Sample
from kdcache.codec_error.teacher_sample import (
    VIEWS,
    RanViews,
    batches_of_rows,
    require_alike,
    run_on_views,
)
from kdcache.codecs import boxes_of
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.inference import ModelsOnViews
from kdcache.models.model import open_model
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.runtime.batch_size import BatchSize, limited_on_cpu
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Records, Rows, ViewLogits
from kdcache.sources import Source, open_source
from kdcache.views import ViewDataset

_HOST = ComputeConfig(device="cpu")


def sample_from_cache(
    path: str | Path,
    *,
    views: int | None = None,
    codecs: Sequence[str] = (),
    student: str | None = None,
    data: str | None = None,
    batch_size: BatchSize = 256,
    compute: ComputeConfig = _HOST,
) -> Sample:
    """Return logits of a `full` cache: of classification of its first two complete seeds, or of one
    if a student is given; of maps and boxes of its first one.

    Args:
        path: the cache.
        views: about how many views to take; by default 4,096, of maps and boxes 64.
        codecs: specs of those that are to be fitted to positions, by default those of the ladder.
        student: spec of the proxy student, with its weights.
        data: spec of the cache's source, whose images the student looks at.
        batch_size: views of one of the student's forward passes at most, on a CPU fewer large
            ones; `auto` tries how many are fastest.
        compute: where and how the student runs.

    Raises:
        CacheError: no such cache, or one that does not hold exact logits of enough seeds.
        UsageError: a student without data, or the other way round, or whose logits lie otherwise.
        MismatchError: data that is not that of the cache.
    """
    cache = open_cache(path)
    seeds = measured_seeds(cache, student=student, data=data)
    layout = cache.manifest.layout
    num_rows = views or VIEWS
    if layout.sites:
        num_rows = most_positions(codecs, cache.manifest.row_width, layout)
    runner = None
    if student is not None and data is not None:
        runner = _Student(
            cache, seeds[0], student, data, batch_size=batch_size, compute=Compute(compute)
        )
    if layout.sites:
        return _positions_of_cache(cache, seeds[0], num_rows, views or MAP_VIEWS, runner)
    if runner is not None:
        return _pairs_with_student(cache, seeds[0], num_rows, runner)
    return sample_of_cache(cache, num_rows=num_rows)


class _Student:
    """A proxy student, opened to look at the views of a seed of a cache."""

    def __init__(
        self,
        cache: Cache,
        seed: int,
        student: str,
        data: str,
        *,
        batch_size: BatchSize,
        compute: Compute,
    ) -> None:
        recipe = cache.recipe
        source = open_source(data)
        require_source(cache, source)
        source = checked_source([cache], source)
        self.model = _open_student(cache, student, source)
        size = self.model.preprocessing.size
        recipe.require_one_draw(size, cache.manifest.input_size)
        self._dataset = ViewDataset(source, recipe, cache.order, sizes=[size], skip_unreadable=True)
        self._seed = seed
        self._batch_size = limited_on_cpu(batch_size, compute.device.type, [size])
        self._compute = compute

    def run(self, rows: Rows) -> RanViews:
        """Return what the student gives of the views of `rows` that can be read."""
        models = [self.model]
        size = settled_batch_size(models, self._dataset, rows, self._compute, self._batch_size)
        requests = batches_of_rows(rows, [self._seed], size)
        return run_on_views(ModelsOnViews(models, self._dataset, self._compute), requests)


def _open_student(cache: Cache, student: str, source: Source) -> VisionModel:
    """Return the model of a student, whose logits lie as those of a cache."""
    model = open_model(
        student,
        classes=source.classes,
        recipe=cache.recipe,
        trained=True,
        task=cache.manifest.task,
    )
    require_alike(model, cache.manifest.layout)
    return model


def _pairs_with_student(cache: Cache, seed: int, num_rows: int, student: _Student) -> Pairs:
    """Return rows of a seed, with the logits of a student on the same views."""
    rows = _first_rows(cache, [seed], num_rows)
    ran = student.run(rows)
    is_read = np.isin(rows, ran.rows)
    return Pairs(
        teacher=_decoded_rows(cache, seed, rows)[is_read],
        student=ran.logits[0],
        groups=ran.rows,
        proxy=student.model.spec,
    )


def sample_of_cache(cache: Cache, *, num_rows: int) -> Sample:
    """Return about `num_rows` rows of a cache's first two complete seeds, as its records have them.

    Of a single seed the teacher is its own proxy, which is enough to fit a codec on and not to
    measure one. Of maps and boxes they are positions of the first seed.

    Args:
        cache: a cache with a complete seed.
        num_rows: about how many rows to take.
    """
    seeds = cache.complete_seeds()[:2]
    if cache.manifest.layout.sites:
        return _positions_of_cache(cache, seeds[0], num_rows, MAP_VIEWS, None)
    rows = _first_rows(cache, seeds, num_rows // len(seeds))
    logits = _decoded_rows(cache, seeds[0], rows)
    if len(seeds) == 1:
        return Pairs(
            teacher=logits, student=logits, groups=rows, proxy="the teacher on the same view"
        )
    return pairs_of_two_views(logits, _decoded_rows(cache, seeds[1], rows), rows)


def _positions_of_cache(
    cache: Cache, seed: int, num_rows: int, map_views: int, student: _Student | None
) -> PositionSample:
    """Return about `num_rows` positions of a seed, as many of each view, and some views whole."""
    rows = _first_rows(cache, [seed], map_views)
    layout = cache.manifest.layout
    whole_rows = measured_rows(rows, layout, cache.manifest.row_width)
    count = -(-num_rows // len(rows))
    proxy = None
    ran = None
    if student is not None:
        proxy = student.model.spec
        ran = student.run(whole_rows)
        whole_rows = ran.rows
    parts = []
    for row, logits in _decoded_views(cache, seed, rows):
        of_student = None
        if ran is not None:
            of_student = ran.logits[0][ran.rows == row]
        part = positions_of_views(
            logits, np.array([row]), count=count, whole_rows=whole_rows, student=of_student
        )
        parts.append(part)
    return position_sample(parts, layout, proxy=proxy)


def _first_rows(cache: Cache, seeds: Sequence[int], num_rows: int) -> Rows:
    """Return the first rows, a random sample as all are in random order, of which each seed holds a
    record."""
    absent: list[int] = []
    for seed in seeds:
        for commit in cache.commits(seed):
            absent += [absence.row for absence in commit.absent]
    return np.setdiff1d(np.flatnonzero(cache.is_held)[: max(num_rows, 1)], absent)


def _decoded_rows(cache: Cache, seed: int, rows: Rows) -> ViewLogits:
    """Return the logits of `rows`, in rising order."""
    parts = []
    for _, records in _records_by_unit(cache, seed, rows):
        parts.append(cache.codec.decode(records).logits())
    return torch.cat(parts)


def _decoded_views(cache: Cache, seed: int, rows: Rows) -> Iterator[tuple[int, TeacherLogits]]:
    """Yield each of `rows`, in rising order, with its logits, one decoded at a time: those of many
    positions are large."""
    for unit_rows, records in _records_by_unit(cache, seed, rows):
        for place, row in enumerate(unit_rows):
            record = records[[place]]
            logits = cache.codec.decode(record).logits()
            yield int(row), TeacherLogits(logits, boxes_of(cache.codec, record))


def _records_by_unit(cache: Cache, seed: int, rows: Rows) -> Iterator[tuple[Rows, Records]]:
    """Yield those of `rows` that each unit holds, and their records; no other unit is read."""
    for unit in range(cache.manifest.num_units):
        unit_range = cache.manifest.unit_range(unit)
        unit_rows = rows[(rows >= unit_range.start) & (rows < unit_range.stop)]
        if len(unit_rows):
            records = cache.read_unit(cache.commit_of(seed, unit))
            yield unit_rows, records[unit_rows - unit_range.start]
