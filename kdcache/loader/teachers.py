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
from kdcache.errors import MismatchError, UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.loader.opening import CacheUse, Replay
from kdcache.loader.slab_reader import Reader
from kdcache.losses import Need
from kdcache.models.first_batch import require_finite, tell_no_logits
from kdcache.models.inference import model_code
from kdcache.models.model import open_model
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Heads, common_layout, layout_of_sites
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.shapes import Rows, Size, size_text
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
from kdcache.targets import task_of
from kdcache.tasks.segmentation import upsampled
from kdcache.verify.logits import require_teacher
from kdcache.views import Batch

_NO_ROWS: Rows = np.empty(0, np.int64)


@runtime_checkable
class Teacher(Protocol):
    """Gives the soft targets of each batch."""

    identity: str
    """Tells one teacher from another, where the cache does not."""

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Make ready for views of `seeds`, fetch `following` meanwhile, and return, by seed, the
        rows that must be left out."""

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the soft targets of `batch`, on the training device."""


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
        self._codec = cache.codec if tail == "uniform" else set_tail(cache.codec, tail)

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows whose samples could not be read at the dump, and those that a partial
        seed lacks.

        Raises:
            CacheError: units that are missing or damaged.
        """
        absent, missing = self._reader.start(seeds, following)
        if self._fallback is None:
            return {seed: np.union1d(absent[seed], missing[seed]) for seed in seeds}
        self._fallback.start(seeds, following)
        return absent

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the decoded records of the batch's rows."""
        rows = batch.rows.numpy()
        seeds = batch.seeds.numpy()
        missing = self._reader.is_missing(rows, seeds)
        if not missing.any():
            return self._codec.decode(self._reader.gather(rows, seeds), self._compute.device)
        assert self._fallback is not None, "missing rows are left out otherwise"
        # the whole batch, so that its pixels need not be copied apart; this is the exception
        inside = torch.from_numpy(~missing).to(self._compute.device)
        online = self._fallback.soft_targets(batch)
        if missing.all():
            return online
        cached = self._codec.decode(
            self._reader.gather(rows[~missing], seeds[~missing]), self._compute.device
        )
        joined: SoftTargets = per_segment(partial(_joined, inside), cached, online)
        return joined


def _joined(inside: Tensor, cached: SoftTargets, online: SoftTargets) -> SoftTargets:
    """Return the rows of a batch: cached ones of the views that are `inside`, the teacher's own of
    the others."""
    everywhere = online.logits()
    # of maps a view has many rows
    of_pixels = inside.repeat_interleave(len(everywhere) // len(inside))
    at = torch.arange(len(everywhere), device=everywhere.device)
    return JoinedTargets(
        [(at[of_pixels], cached), (at[~of_pixels], DenseTargets(everywhere[~of_pixels]))]
    )


class MappedTeacher:
    """A teacher of other classes than the student's."""

    def __init__(
        self, teacher: Teacher, classes: Tensor, num_classes: int, compute: Compute
    ) -> None:
        digest = hashlib.sha256(classes.numpy().tobytes()).hexdigest()
        self.identity = f"{teacher.identity} mapped {digest}"
        self._teacher = teacher
        self._classes = compute.move(classes)
        self._num_classes = num_classes

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
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
        self.identity = ", ".join(
            f"{weight:g} {one.identity}" for one, weight in zip(teachers, weights, strict=True)
        )
        self._teachers = teachers
        self._weights = weights

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows that any of the teachers leaves out."""
        absent = [teacher.start(seeds, following) for teacher in self._teachers]
        return {seed: np.unique(np.concatenate([one[seed] for one in absent])) for seed in seeds}

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the mean of the teachers' rows."""
        averaged: SoftTargets = per_segment(
            lambda *rows: AveragedTargets(rows, self._weights),
            *(teacher.soft_targets(batch) for teacher in self._teachers),
        )
        return averaged


class OnlineTeacher:
    """Runs a teacher on each batch: the reference that a cache must equal, and the cost that it
    saves."""

    def __init__(self, model: VisionModel, compute: Compute) -> None:
        self.identity = state_sha256(model.module)
        self.sites = model.sites
        self._model = compute.place(model).eval()
        self._opened = model
        self._compute = compute
        self._is_first = True

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return no rows: nothing is left out."""
        return dict.fromkeys(seeds, _NO_ROWS)

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return the logits of the teacher on the batch's views of its input size."""
        views = self._compute.move(batch.views[-1])
        what = f"teacher {self._opened.spec} on a batch of {len(views)} views"
        with torch.no_grad(), self._compute.autocast(), model_code(what):
            logits = self._model(views)
        if self._is_first:
            require_finite(self._opened, logits)
            tell_no_logits(self._opened, logits)
        self._is_first = False
        return by_segment(logits, layout_of_sites(self.sites))


class ResampledTeacher:
    """A teacher whose maps are of another size than the student's: its logits are brought to it,
    bilinear."""

    def __init__(self, teacher: Teacher, size: tuple[int, int]) -> None:
        self.identity = f"{teacher.identity} at {size_text(size)}"
        self._teacher = teacher
        self._size = size

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
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
            maps = upsampled(head.logits().reshape(len(batch.rows), *size, -1), self._size)
            heads.append(DenseTargets(maps.permute(0, 2, 3, 1).flatten(0, 2)))
        return SegmentTargets(heads, Heads((self._size,) * len(heads)))


class NoTeacher:
    """For losses without a teacher; with a cache, the views and the rows left out are those of the
    cache."""

    def __init__(self, use: CacheUse | None) -> None:
        """Take the cache, if there is one."""
        self.identity = "none"
        self._use = use

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows that a teacher with the cache would leave out, so that all losses train
        on the same samples.

        Raises:
            MissingUnitError: units that are not committed, of a seed that is not to be partial.
        """
        if self._use is None:
            return dict.fromkeys(seeds, _NO_ROWS)
        if self._use.stream is not None:  # that the images come from
            absent, missing = self._use.stream.start(seeds, following)
            return {seed: np.union1d(absent[seed], missing[seed]) for seed in seeds}
        return {seed: np.concatenate(self._use.unavailable(seed)) for seed in seeds}

    def soft_targets(self, batch: Batch) -> SoftTargets:
        """Return rows of no classes; no loss without a teacher looks at them."""
        if self._use is not None and self._use.stream is not None:
            self._use.stream.release(batch.rows.numpy())
        return DenseTargets(torch.empty(len(batch.rows), 0))


def open_teacher(
    config: LoaderConfig,
    replay: Replay,
    needs: frozenset[Need],
    compute: Compute,
    *,
    size: Size,
    sites: Sequence[int] | None = None,
) -> tuple[Teacher, list[Size]]:
    """Return where a run's soft targets come from, and the input sizes to render, the student's
    first.

    Args:
        config: of the run.
        replay: its views.
        needs: what its loss requires.
        compute: where and how models run.
        size: the student's input size.
        sites: the shape of the student's logits but for the classes; by default the teacher's.

    Raises:
        UsageError: records that do not hold what the loss needs.
        RecipeError: the student would see another draw of the views than the teacher.
        KdcacheError: a teacher that cannot be opened, or is not the one that the cache was made
            with.
    """
    caches = [use.cache for use in replay.caches]
    replay.recipe.require_one_draw(size, *(cache.manifest.input_size for cache in caches))
    if "teacher" not in needs:
        return NoTeacher(replay.caches[0] if caches else None), [size]
    online, sizes = _online(config, replay, size, compute) if config.teacher else (None, [size])
    if online is not None and not caches:
        return _at_size_of(sites, online, online.sites), sizes
    combines = len(caches) > 1 or any(use.classes is not None for use in replay.caches)
    if combines and "logits" in needs:
        raise UsageError(
            "several teachers, or one of other classes, give probabilities, and this loss needs"
            " logits: use dist or kl without standardize"
        )
    if sites is None and caches:
        _require_same_layout(caches)
    teachers = [
        _cached(config, replay, use, online, compute=compute, sites=sites) for use in replay.caches
    ]
    weights = [use.weight for use in replay.caches]
    return (teachers[0] if len(teachers) == 1 else AveragedTeacher(teachers, weights)), sizes


def _require_same_layout(caches: Sequence[Cache]) -> None:
    """Raise a MismatchError if the logits of several caches do not lie alike, and there is no
    student whose maps theirs could be brought to."""
    try:
        common_layout([cache.manifest.layout for cache in caches])
    except UsageError as error:
        raise MismatchError(
            f"caches {', '.join(map(str, caches))}: {error}, or give model, a segmentation model of"
            " kdcache, whose maps theirs are then brought to"
        ) from error


def _cached(
    config: LoaderConfig,
    replay: Replay,
    use: CacheUse,
    online: OnlineTeacher | None,
    *,
    compute: Compute,
    sites: Sequence[int] | None,
) -> Teacher:
    layout = use.cache.manifest.layout
    if sites is not None and layout.sites and layout.maps is None:
        raise UsageError(
            f"cache {use.cache} holds logits of {layout.kind}, which no task of this"
            " kdcache trains on; read it in a loop of your own, segment by segment"
        )
    cached = CachedTeacher(use.cache, use.reader(), compute, tail=config.tail, fallback=online)
    teacher = _at_size_of(sites, cached, layout.maps or ())
    if use.classes is None:
        return teacher
    return MappedTeacher(teacher, use.classes, replay.source.classes, compute)


def _at_size_of(wanted: Sequence[int] | None, teacher: Teacher, sites: Sequence[int]) -> Teacher:
    """Return a teacher whose maps, at `sites` now, have the size of the student's, at `wanted`."""
    if wanted is None or tuple(sites[1:]) == tuple(wanted[1:]):
        return teacher
    theirs = (sites[1], sites[2])
    own = (wanted[1], wanted[2])
    say(
        f"note: the teacher's maps of {size_text(theirs)} are brought to {size_text(own)}, the"
        " student's (logits, bilinear)"
    )
    return ResampledTeacher(teacher, own)


def _online(
    config: LoaderConfig, replay: Replay, size: Size, compute: Compute
) -> tuple[OnlineTeacher, list[Size]]:
    classes = replay.caches[0].cache.manifest.classes if replay.caches else replay.source.classes
    model = open_model(
        str(config.teacher),
        classes=classes,
        recipe=replay.recipe,
        trained=True,
        task=task_of(replay.source),
    )
    for use in replay.caches:
        require_teacher(use.cache, model)
        _require_architecture(use.cache, model)
    wanted = model.preprocessing.size
    replay.recipe.require_one_draw(size, wanted)
    return OnlineTeacher(model, compute), [size] if wanted == size else [size, wanted]


def _require_architecture(cache: Cache, model: VisionModel) -> None:
    """Check that a teacher has the options that a cache was made with, as its weights do not tell.

    Raises:
        MismatchError: it has others.
    """
    made = cache.manifest.teacher.architecture
    if made not in (None, model.architecture):
        raise MismatchError(
            f"teacher {model.spec} is {model.architecture} with its options, and cache {cache} was "
            f"made with {made}: the same weights give other logits; give the spec of the dump"
        )
