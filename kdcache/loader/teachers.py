"""Where the soft targets of a training batch come from: a cache, a teacher in the loop, or
nowhere."""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.codecs import Tail, set_tail
from kdcache.loader.replay import CacheUse
from kdcache.loader.slab_reader import Reader, RowsOfSeeds
from kdcache.models.first_batch import require_finite, tell_no_logits
from kdcache.models.inference import model_code
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Heads
from kdcache.runtime.device import Compute
from kdcache.shapes import ClassMap, Rows, size_text
from kdcache.soft_targets import (
    AveragedTargets,
    DenseTargets,
    JoinedTargets,
    MappedTargets,
    SegmentTargets,
    SoftTargets,
    by_segment,
    per_segment,
)
from kdcache.tasks.map_sizes import upsampled
from kdcache.views import Batch

_NO_ROWS: Rows = np.empty(0, np.int64)


@runtime_checkable
class Teacher(Protocol):
    """Gives the soft targets of each batch."""

    identity: str
    """Tells one teacher from another, where the cache does not."""

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Make ready for views of `seeds`, fetch `following` meanwhile, and return, by seed, the
        rows that must be left out."""

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the soft targets of `batch`, on the training device."""


def _union(parts: Sequence[RowsOfSeeds], seeds: Sequence[int]) -> RowsOfSeeds:
    """Return by seed the rows that are in any of the parts."""
    rows = {}
    for seed in seeds:
        rows_of_parts = [part[seed] for part in parts]
        rows[seed] = np.unique(np.concatenate(rows_of_parts))
    return rows


class CachedTeacher:
    """Reads rows from a cache: records gathered here, decoded on the device."""

    def __init__(
        self,
        cache: Cache,
        reader: Reader,
        compute: Compute,
        *,
        tail: Tail = "uniform",
        fallback: Teacher | None = None,
    ) -> None:
        """Take the cache.

        Args:
            cache: the cache.
            reader: of its records.
            compute: where rows are decoded.
            tail: how the tail of a topk cache is spread over the classes that it dropped.
            fallback: the teacher in the loop, for rows that are missing; without one they are left
                out.
        """
        self.identity = cache.manifest.teacher.sha256
        self._reader = reader
        self._compute = compute
        self._fallback = fallback
        self._codec = cache.codec
        if tail != "uniform":
            self._codec = set_tail(cache.codec, tail)

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Return the rows whose samples could not be read at the dump, and those that a partial
        seed lacks.

        Raises:
            CacheError: units that are missing or damaged.
        """
        absent, missing = self._reader.start(seeds, following)
        if self._fallback is None:
            return _union([absent, missing], seeds)
        self._fallback.start(seeds, following)
        return absent

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the decoded records of the batch's rows."""
        rows = batch.rows.numpy()
        seeds = batch.seeds.numpy()
        is_missing = self._reader.is_missing(rows, seeds)
        if not is_missing.any():
            return self._decoded(rows, seeds)
        assert self._fallback is not None, "missing rows are left out otherwise"
        # the whole batch, so that its pixels need not be copied apart; this is the exception
        online = self._fallback.soft_targets(batch)
        if is_missing.all():
            return online
        cached = self._decoded(rows[~is_missing], seeds[~is_missing])
        is_cached = torch.from_numpy(~is_missing).to(self._compute.device)
        joined: SoftTargets = per_segment(partial(_joined, is_cached), cached, online)
        return joined

    def _decoded(self, rows: Rows, seeds: Rows) -> SoftTargets:
        records = self._reader.gather(rows, seeds)
        return self._codec.decode(records, self._compute.device)


def _joined(is_cached: Tensor, cached: SoftTargets, online: SoftTargets) -> SoftTargets:
    """Return the rows of a batch: cached ones of the views that have them, the teacher's own of the
    others."""
    online_logits = online.logits()
    num_rows = len(online_logits)
    # of maps a view has many rows
    is_row_cached = is_cached.repeat_interleave(num_rows // len(is_cached))
    rows = torch.arange(num_rows, device=online_logits.device)
    cached_part = (rows[is_row_cached], cached)
    own_part = (rows[~is_row_cached], DenseTargets(online_logits[~is_row_cached]))
    return JoinedTargets([cached_part, own_part])


class MappedTeacher:
    """A teacher of other classes than the student's."""

    def __init__(
        self, teacher: Teacher, classes: ClassMap, num_classes: int, compute: Compute
    ) -> None:
        digest = hashlib.sha256(classes.tobytes()).hexdigest()
        self.identity = f"{teacher.identity} mapped {digest}"
        self._teacher = teacher
        self._classes = compute.move(torch.from_numpy(classes))
        self._num_classes = num_classes

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Do as the teacher does."""
        return self._teacher.start(seeds, following)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the soft targets by the student's classes."""
        mapped: SoftTargets = per_segment(
            lambda rows: MappedTargets(rows, self._classes, self._num_classes),
            self._teacher.soft_targets(batch),
        )
        return mapped


class AveragedTeacher:
    """Several teachers, whose probabilities are averaged; a row that one of them lacks is left
    out."""

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        identities = []
        for teacher, weight in zip(teachers, weights, strict=True):
            identities.append(f"{weight:g} {teacher.identity}")
        self.identity = ", ".join(identities)
        self._teachers = teachers
        self._weights = weights

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Return the rows that any of the teachers leaves out."""
        absent = [teacher.start(seeds, following) for teacher in self._teachers]
        return _union(absent, seeds)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the mean of the teachers' rows."""
        targets = [teacher.soft_targets(batch) for teacher in self._teachers]
        averaged: SoftTargets = per_segment(
            lambda *rows: AveragedTargets(rows, self._weights), *targets
        )
        return averaged


class OnlineTeacher:
    """Runs a teacher on each batch: the reference that a cache must equal, and the cost that it
    saves."""

    def __init__(self, model: VisionModel, compute: Compute, *, place: int) -> None:
        """Put the model on its device.

        Args:
            model: the teacher.
            compute: where and how it runs.
            place: of the views of its input size among those of a batch.
        """
        self.identity = state_sha256(model.module)
        self.layout = model.layout
        self._model = compute.place(model).eval()
        self._opened = model
        self._compute = compute
        self._place = place
        self._is_first = True

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Return no rows: nothing is left out."""
        return dict.fromkeys(seeds, _NO_ROWS)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the logits of the teacher on the batch's views of its input size."""
        views = self._compute.move(batch.views[self._place])
        what = f"teacher {self._opened.spec} on a batch of {len(views)} views"
        with torch.no_grad(), self._compute.autocast(), model_code(what):
            logits = self._opened.teacher_logits(self._model(views), batch.labels)
        if self._is_first:
            require_finite(self._opened, logits.values)
            tell_no_logits(self._opened, logits.values)
        self._is_first = False
        return by_segment(logits.values, self.layout, logits.boxes)


class ResampledTeacher:
    """A teacher whose maps are of another size than the student's: its logits are brought to it,
    bilinear."""

    def __init__(self, teacher: Teacher, size: tuple[int, int]) -> None:
        self.identity = f"{teacher.identity} at {size_text(size)}"
        self._teacher = teacher
        self._size = size

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Do as the teacher does."""
        return self._teacher.start(seeds, following)

    def soft_targets(self, batch: Batch) -> SegmentTargets:
        """Return the teacher's maps at the student's size; align_corners is false, as in all
        upsampling here."""
        rows = self._teacher.soft_targets(batch)
        assert isinstance(rows, SegmentTargets) and rows.layout.maps
        _, *size = rows.layout.maps
        heads = []
        for head in rows.heads:
            teacher_maps = head.logits().reshape(len(batch.rows), *size, -1)
            maps = upsampled(teacher_maps, self._size)
            heads.append(DenseTargets(maps.permute(0, 2, 3, 1).flatten(0, 2)))
        return SegmentTargets(heads, Heads((self._size,) * len(heads)))


class NoTeacher:
    """For losses without a teacher; with caches, the views and the rows left out are those of
    theirs."""

    def __init__(self, uses: Sequence[CacheUse], *, is_filled: bool = False) -> None:
        """Take the caches.

        Args:
            uses: of the caches, if there are any.
            is_filled: whether a teacher in the loop would fill what they lack.
        """
        self.identity = "none"
        self._uses = uses
        self._is_filled = is_filled

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> RowsOfSeeds:
        """Return the rows that a teacher with the caches would leave out, so that all losses train
        on the same samples.

        Raises:
            MissingUnitError: units that are not committed, of a seed that is not to be partial.
        """
        parts = [dict.fromkeys(seeds, _NO_ROWS)]
        for use in self._uses:
            absent, missing = _unavailable(use, seeds, following)
            parts.append(absent)
            if not self._is_filled:
                parts.append(missing)
        return _union(parts, seeds)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return rows of no classes; no loss without a teacher looks at them."""
        for use in self._uses:
            if use.stream is not None:
                use.stream.release(batch.rows.numpy())
        return DenseTargets(torch.empty(len(batch.rows), 0))


def _unavailable(
    use: CacheUse, seeds: Sequence[int], following: Sequence[int]
) -> tuple[RowsOfSeeds, RowsOfSeeds]:
    """Return by seed the rows that are absent from a cache, and that are missing."""
    if use.stream is not None:  # that the images come from
        return use.stream.start(seeds, following)
    absent: RowsOfSeeds = {}
    missing: RowsOfSeeds = {}
    for seed in seeds:
        absent[seed], missing[seed] = use.unavailable(seed)
    return absent, missing
