"""Where the teacher's rows of a training batch come from: a cache, a teacher in the loop, or nowhere."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, Slab
from kdcache.codecs import AveragedRows, DenseRows, JoinedRows, MappedRows, Tail, TeacherRows, set_tail
from kdcache.compute import Compute
from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.models import VisionModel, open_model, state_sha256
from kdcache.replay import CacheUse, Replay
from kdcache.rerun import require_teacher
from kdcache.shapes import Records, Rows
from kdcache.train_config import TrainConfig
from kdcache.views import Batch

_NO_ROWS: Rows = np.empty(0, np.int64)
_PRIOR_ROWS = 65_536
"""Records from which the tail policy `prior` is estimated, at most."""


@runtime_checkable
class Teacher(Protocol):
    """Gives the teacher's rows of each batch."""

    identity: str
    """Tells one teacher from another, where the cache does not."""

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Make ready for views of `seeds`, fetch `following` meanwhile, and return, by seed, the rows that must be left out."""

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows of `batch`, on the training device."""


class CachedTeacher:
    """Reads rows from a cache: gathered from the seed's slab here, decoded on the device."""

    def __init__(self, cache: Cache, compute: Compute, *, is_partial: bool = False, fallback: Teacher | None = None) -> None:
        """Take the cache.

        Args:
            cache: the cache.
            compute: where rows are decoded.
            is_partial: whether seeds may lack units; their rows are left out, or come from `fallback`.
            fallback: the teacher in the loop.
        """
        self.identity = str(cache.manifest.teacher["sha256"])
        self._cache, self._compute = cache, compute
        self._is_partial, self._fallback = is_partial, fallback
        self._codec = cache.codec
        self._fetcher = ThreadPoolExecutor(1, "kdcache-slab")
        self._fetched: dict[int, Future[Slab]] = {}
        self._slabs: dict[int, Slab] = {}

    def set_tail(self, tail: Tail, seed: int) -> None:
        """Spread the tail of the rows to come by another policy; `prior` is estimated from records of `seed`.

        Raises:
            UsageError: the codec keeps every class.
            CacheError: units of `seed` that are missing or damaged.
        """
        records = np.empty(0, self._cache.manifest.dtype)
        if tail == "prior":
            slab = self._cache.slab(seed)
            rows = np.setdiff1d(np.arange(min(len(slab), _PRIOR_ROWS + len(slab.absent))), slab.absent)[:_PRIOR_ROWS]
            records = slab.gather(rows)  # a cache's first rows are a random sample of its source
        self._codec = set_tail(self._cache.codec, tail, records)

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows whose samples could not be read at the dump, and those that a partial seed lacks.

        Raises:
            CacheError: units that are missing or damaged.
        """
        # of a partial seed a slab made early would lack what is committed by its turn
        wanted = dict.fromkeys(seeds if self._is_partial else [*seeds, *following])
        self._fetched = {one: self._fetched.get(one) or self._fetcher.submit(self._slab, one) for one in wanted}
        self._slabs = {seed: self._fetched[seed].result() for seed in seeds}
        if self._is_partial:
            self._fetched = {}
        left_out = {seed: slab.absent for seed, slab in self._slabs.items()}
        if self._fallback is None:
            return {seed: np.union1d(left_out[seed], slab.missing) for seed, slab in self._slabs.items()}
        self._fallback.start(seeds, following)
        return left_out

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the decoded records of the batch's rows."""
        assert self._slabs, "start comes first"
        rows, seeds = batch.rows.numpy(), batch.seeds.numpy()
        missing = self._missing(rows, seeds)
        if not missing.any():
            return self._codec.decode(self._gather(rows, seeds), self._compute.device)
        assert self._fallback is not None, "missing rows are left out otherwise"
        # the whole batch, so that its pixels need not be copied apart; this is the exception
        inside, online = torch.from_numpy(~missing).to(self._compute.device), self._fallback.rows(batch)
        everywhere = DenseRows(online.logits())
        if missing.all():
            return everywhere
        at = torch.arange(len(rows), device=self._compute.device)
        cached = self._codec.decode(self._gather(rows[~missing], seeds[~missing]), self._compute.device)
        return JoinedRows([(at[inside], cached), (at[~inside], DenseRows(everywhere.logits()[~inside]))])

    def _slab(self, seed: int) -> Slab:
        return self._cache.slab(seed, is_partial=self._is_partial)

    def _missing(self, rows: Rows, seeds: Rows) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        if not any(len(slab.missing) for slab in self._slabs.values()):
            return np.zeros(len(rows), bool)
        missing = [(seeds == seed) & slab.is_missing(rows) for seed, slab in self._slabs.items()]
        found: np.ndarray[Any, np.dtype[np.bool_]] = np.logical_or.reduce(missing)
        return found

    def _gather(self, rows: Rows, seeds: Rows) -> Records:
        if len(self._slabs) == 1:
            return next(iter(self._slabs.values())).gather(rows)
        records = np.empty(len(rows), self._cache.manifest.dtype)
        for seed, slab in self._slabs.items():
            records[seeds == seed] = slab.gather(rows[seeds == seed])
        return records


class MappedTeacher:
    """A teacher of other classes than the student's."""

    def __init__(self, teacher: Teacher, classes: Tensor, num_classes: int, compute: Compute) -> None:
        digest = hashlib.sha256(classes.numpy().tobytes()).hexdigest()
        self.identity = f"{teacher.identity} mapped {digest}"
        self._teacher, self._classes, self._num_classes = teacher, compute.move(classes), num_classes

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Do as the teacher does."""
        return self._teacher.start(seeds, following)

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows by the student's classes."""
        return MappedRows(self._teacher.rows(batch), self._classes, self._num_classes)


class AveragedTeacher:
    """Several teachers, whose probabilities are averaged; a row that one of them lacks is left out."""

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        self.identity = ", ".join(f"{weight:g} {one.identity}" for one, weight in zip(teachers, weights, strict=True))
        self._teachers, self._weights = teachers, weights

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows that any of the teachers leaves out."""
        absent = [teacher.start(seeds, following) for teacher in self._teachers]
        return {seed: np.unique(np.concatenate([one[seed] for one in absent])) for seed in seeds}

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the mean of the teachers' rows."""
        return AveragedRows([teacher.rows(batch) for teacher in self._teachers], self._weights)


class OnlineTeacher:
    """Runs a teacher on each batch: the reference that a cache must equal, and the cost that it saves."""

    def __init__(self, model: VisionModel, compute: Compute) -> None:
        self.identity = state_sha256(model.module)
        self._model = compute.place(model).eval()
        self._compute = compute

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return no rows: nothing is left out."""
        return dict.fromkeys(seeds, _NO_ROWS)

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the logits of the teacher on the batch's views of its input size."""
        with torch.no_grad(), self._compute.autocast():
            return DenseRows(self._model(self._compute.move(batch.views[-1])))


class NoTeacher:
    """For losses without a teacher; with a cache, the views and the rows left out are those of the cache."""

    def __init__(self, cache: Cache | None, *, is_partial: bool = False) -> None:
        """Take the cache, if there is one, whose seeds may lack units if `is_partial`."""
        self.identity = "none"
        self._cache, self._is_partial = cache, is_partial

    def start(self, seeds: Sequence[int], following: Sequence[int]) -> dict[int, Rows]:
        """Return the rows that a teacher with the cache would leave out, so that all losses train on the same samples.

        Raises:
            MissingUnitError: units that are not committed, of a seed that is not to be partial.
        """
        return {seed: self._left_out(seed) for seed in seeds}

    def _left_out(self, seed: int) -> Rows:
        if self._cache is None:
            return _NO_ROWS
        commits = self._cache.held_commits(seed) if self._is_partial else self._cache.commits(seed)
        return np.concatenate(self._cache.holes(commits))

    def rows(self, batch: Batch) -> TeacherRows:
        """Return rows of no classes; no loss without a teacher looks at them."""
        return DenseRows(torch.empty(len(batch.rows), 0))


def open_teacher(config: TrainConfig, replay: Replay, loss: Loss, size: int, compute: Compute) -> tuple[Teacher, list[int]]:
    """Return where a run's teacher rows come from, and the input sizes to render, the student's first.

    Args:
        config: of the run.
        replay: its views.
        loss: its loss.
        size: of the student's input.
        compute: where and how models run.

    Raises:
        UsageError: records that do not hold what the loss needs.
        RecipeError: the student would see another draw of the views than the teacher.
        KdcacheError: a teacher that cannot be opened, or is not the one that the cache was made with.
    """
    caches, is_partial = [use.cache for use in replay.caches], config.on_miss != "error"
    replay.recipe.require_one_draw(size, *(cache.manifest.teacher["size"] for cache in caches))
    if not loss.needs_teacher:
        return NoTeacher(caches[0] if caches else None, is_partial=is_partial), [size]
    online, sizes = _online(config, replay, size, compute) if config.teacher else (None, [size])
    if online is not None and not caches:
        return online, sizes
    combines = len(caches) > 1 or any(use.classes is not None for use in replay.caches)
    if combines and (loss.needs_all or getattr(loss, "standardize", False)):
        raise UsageError(
            f"loss {config.loss} needs logits, and several teachers, or one of other classes, give probabilities: use dist or "
            "kl without standardize"
        )
    teachers = [_cached(config, replay, use, online, compute) for use in replay.caches]
    weights = [use.weight for use in replay.caches]
    return (teachers[0] if len(teachers) == 1 else AveragedTeacher(teachers, weights)), sizes


def _cached(config: TrainConfig, replay: Replay, use: CacheUse, online: OnlineTeacher | None, compute: Compute) -> Teacher:
    cached = CachedTeacher(use.cache, compute, is_partial=config.on_miss != "error", fallback=online)
    if config.tail != "uniform":
        cached.set_tail(config.tail, replay.seeds[0])
    return cached if use.classes is None else MappedTeacher(cached, use.classes, replay.source.classes, compute)


def _online(config: TrainConfig, replay: Replay, size: int, compute: Compute) -> tuple[OnlineTeacher, list[int]]:
    classes = replay.caches[0].cache.manifest.classes if replay.caches else replay.source.classes
    model = open_model(str(config.teacher), classes=classes, recipe=replay.recipe, trained=True)
    for use in replay.caches:
        require_teacher(use.cache, model)
    wanted = model.preprocessing.size
    replay.recipe.require_one_draw(size, wanted)
    return OnlineTeacher(model, compute), [size] if wanted == size else [size, wanted]
