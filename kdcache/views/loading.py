"""Batches of views, rendered in this process or in loader workers."""

import atexit
import multiprocessing
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from operator import index
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset

from kdcache.errors import (
    KdcacheError,
    RecipeError,
    UnreadableSampleError,
    UsageError,
    quoted,
)
from kdcache.runtime.stopping import outlive_signals, starting_apart
from kdcache.runtime.waiting import waiting
from kdcache.shapes import Labels, Rows, Size, Views, sides
from kdcache.sources import Sample, Source
from kdcache.sources.protocol import sample_name
from kdcache.sources.sample_warnings import (
    SampleWarning,
    about_sample,
    heard_warnings,
    tell_warnings,
)
from kdcache.targets import NO_TARGET, MixedTarget, ViewTarget, target_kind, task_of
from kdcache.views.mixing import blend, mix, partner
from kdcache.views.recipe import Recipe
from kdcache.views.view import (
    Trace,
    draw,
    draw_masked,
    preserved_generators,
    seed_generators,
    trace,
)

_Drawn = tuple[list[Tensor], ViewTarget]
"""The unmixed view of a row at each size, and its target, a mask at the first size."""
Request = Sequence[tuple[int, int]]
"""(row, seed) of each view of a batch."""
T = TypeVar("T")
PREFETCHED = 2
"""Batches that each loader worker is ahead."""


class Batch(NamedTuple):
    """A batch of views, rendered once for each input size that was asked for."""

    views: tuple[Views, ...]
    labels: Labels
    """Of the views of the first size; of absent ones -1, of their pixels 255."""
    rows: Tensor
    seeds: Tensor
    absent: tuple[tuple[int, str], ...]
    """Positions in the batch whose image could not be read, with the reason; their pixels are
    zeros."""
    warnings: tuple[SampleWarning, ...] = ()
    """That were raised while samples of the batch were worked on."""


class ViewDataset(Dataset[Batch]):
    """Renders batches of views of (row, seed); row r is sample `order[r]`.

    Errors come back as values: an exception raised in a loader worker would reach the user as a
    traceback's text.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        order: Rows,
        *,
        sizes: Sequence[Size | None],
        skip_unreadable: bool = False,
    ) -> None:
        self.source = source
        self.order = order
        self._kind = target_kind(task_of(source))
        if self._kind.follows_views:
            recipe.require_masks()
        self.recipes = [recipe.at(size) for size in sizes]
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.order)

    def __getitems__(self, request: Request) -> Batch | KdcacheError:
        """Return the batch of the views asked for, or the error that prevented it."""
        try:
            return self.batch(request)
        except KdcacheError as error:
            return error

    def batch(self, request: Request) -> Batch:
        """Return the batch of the views asked for; the caller's random generators are left as they
        were.

        Raises:
            UsageError: no pairs of a row that there is and a seed.
            UnreadableSampleError: an image cannot be decoded, and these are not to be skipped.
            RecipeError: the recipe does not fit an image.
        """
        self._require_rows(request)
        with preserved_generators(), heard_warnings() as heard:
            batch = self._render(request)
        return batch._replace(warnings=tuple(heard))

    def _require_rows(self, request: Request) -> None:
        try:
            views = [(index(row), index(seed)) for row, seed in request]
        except (TypeError, ValueError):
            raise UsageError(
                f"views are asked for by {quoted(request)}; give pairs (row, seed)"
            ) from None
        for row, seed in views:
            if not 0 <= row < len(self):
                raise UsageError(f"row is {row}; rows are from 0 to {len(self) - 1}")
            if not 0 <= seed < 1 << 32:
                raise UsageError(f"seed is {seed}; seeds are from 0 to 2^32 - 1")

    def trace(self, row: int, seed: int) -> Trace:
        """Return the trace of a view of the first size; the caller's random generators are left as
        they were.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            RecipeError: the recipe does not fit the image.
        """
        # the view itself was rendered, and its warnings told
        with (
            preserved_generators(),
            heard_warnings(),
        ):
            index, sample = self._sample(row, seed)
            return trace(sample.image, self.recipes[0], index, seed)

    def _render(self, request: Request) -> Batch:
        # arrays, since numpy takes half as long as torch to put channels first, which is how views
        # come from Pillow
        targets = [NO_TARGET] * len(request)
        absent: list[tuple[int, str]] = []
        drawn: dict[
            tuple[int, int], _Drawn
        ] = {}  # of this batch, so that both of a pair are drawn once
        pixels = [
            np.zeros(
                (len(request), recipe.channels, *self._sides(recipe, request, drawn)), np.uint8
            )
            for recipe in self.recipes
        ]
        for position, (row, seed) in enumerate(request):
            try:
                views, targets[position] = self._mixed(row, seed, drawn)
            except UnreadableSampleError as error:
                if not self.skip_unreadable:
                    raise
                absent.append((position, str(error)))
                continue
            for out, view in zip(pixels, views, strict=True):
                if out[position].shape != view.shape:
                    raise RecipeError(
                        f"views of {out[position].shape} and {tuple(view.shape)} in one batch; use"
                        " a recipe with a size"
                    )
                out[position] = view.numpy()
        rows, seeds = torch.tensor(np.asarray(request, dtype=np.int64).reshape(-1, 2)).unbind(1)
        rendered = tuple(map(torch.from_numpy, pixels))
        mixes = self.recipes[0].mixing is not None
        labels = self._kind.batch(targets, rendered[0].shape[2:], mixes=mixes)
        return Batch(rendered, labels, rows, seeds, tuple(absent))

    def _sides(
        self, recipe: Recipe, request: Request, drawn: dict[tuple[int, int], _Drawn]
    ) -> tuple[int, int]:
        """Return the height and width of a batch's views; where they are as large as their images,
        those of the first."""
        if recipe.size is not None:
            return sides(recipe.size)
        views, _ = self._drawn(*request[0], drawn)
        height, width = views[0].shape[1:]
        return height, width

    def _mixed(
        self, row: int, seed: int, drawn: dict[tuple[int, int], _Drawn]
    ) -> tuple[list[Tensor], MixedTarget]:
        """Return the view at each size, and what its target is."""
        recipe = self.recipes[0]
        views, target = self._drawn(row, seed, drawn)
        if recipe.mixing is None:
            return views, (target, -1, 1.0)
        other = partner(row, len(self), recipe.mixing, recipe.key, seed)
        assert isinstance(target, int), "require_masks has refused a recipe that mixes"
        # even if it will not show: a pair is absent together
        other_views, other_target = self._drawn(other, seed, drawn)
        draw = blend(recipe.mixing, recipe.key, seed, row, other)
        mixed = [mix(own, its, draw) for own, its in zip(views, other_views, strict=True)]
        assert isinstance(other_target, int)
        return [view for view, _ in mixed], (target, other_target, mixed[0][1])

    def _drawn(self, row: int, seed: int, drawn: dict[tuple[int, int], _Drawn]) -> _Drawn:
        if (row, seed) not in drawn:
            drawn[row, seed] = self._draw(row, seed)
        return drawn[row, seed]

    def _draw(self, row: int, seed: int) -> _Drawn:
        index, (image, target) = self._sample(row, seed)

        def name() -> str:
            return sample_name(self.source.spec, index, self.source.key(index))

        try:
            with about_sample(name):  # converting an image may warn too
                if isinstance(target, int):
                    return [draw(image, recipe, index, seed) for recipe in self.recipes], target
                drawn = [draw_masked(image, target, recipe, index, seed) for recipe in self.recipes]
                return [view for view, _ in drawn], drawn[0][1]
        except RecipeError as error:
            raise RecipeError(f"sample {index} ({self.source.key(index)}): {error}") from error

    def _sample(self, row: int, seed: int) -> tuple[int, Sample]:
        index = int(self.order[row])
        seed_generators(*self.recipes[0].key, seed, index)  # a data set may draw too
        return index, self.source.sample(index)


class ViewLoader:
    """Iterates over batches of views in the order of `requests`, which is walked anew each time.

    Its workers pass over signals that ask to stop: these go to all processes of a group, or of a
    job, and the main process needs its workers until it has come to a good end. It ends them
    itself.
    """

    def __init__(
        self, dataset: ViewDataset, requests: Iterable[Request], *, workers: int, pin_memory: bool
    ) -> None:
        self.dataset = dataset
        self._owner = os.getpid()
        self._workers: list[BaseProcess] = []
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=requests,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else each epoch would draw from the student's generator
        )
        _open_loaders.add(self)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches.

        Raises:
            KdcacheError: what a view raised, as the same class, or a worker that was killed.
        """
        try:
            batches = self._start()
            while True:
                with waiting("the next views"):
                    batch = next(batches, None)
                if batch is None:
                    return
                if isinstance(batch, KdcacheError):
                    raise batch
                tell_warnings(batch.warnings)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise KdcacheError(
                "a loader worker was killed, most likely for memory; use fewer --workers or a"
                " smaller --batch-size, or give the container more shared memory (/dev/shm)"
            ) from error

    def close(self) -> None:
        """End the workers: they are told to, and killed in a batch, since they hold nothing."""
        if os.getpid() != self._owner:
            return  # a copy in a worker of another loader
        iterator = self._loader._iterator
        workers = self._workers
        self._loader._iterator = None
        self._workers = []
        try:
            if iterator is not None and all(worker.is_alive() for worker in workers):
                _dismiss(iterator)
                end = time.monotonic() + _END_SECONDS
                for worker in workers:
                    worker.join(max(end - time.monotonic(), 0.0))
        finally:
            if iterator is not None:
                _forget(iterator)
            for worker in workers:
                worker.kill()  # SIGTERM, which multiprocessing would send, is passed over
                worker.join()

    def __del__(self) -> None:
        with suppress(Exception):  # when Python is taken down, anything may be gone
            self.close()

    def _start(self) -> Iterator[Batch | KdcacheError]:
        """Return an iterator over what the workers give; it knows those that it starts."""
        if self._loader.num_workers == 0:
            return iter(self._loader)
        others = {*multiprocessing.active_children()}
        try:
            with starting_apart():
                return iter(self._loader)
        finally:
            self._workers += [*{*multiprocessing.active_children()} - others]
            _close_at_exit()


_END_SECONDS = 1.0
_FIRST = 1000
_processes: set[int] = set()
"""Those, forked one from the other, that end their loaders' workers when they end."""
_open_loaders: "weakref.WeakSet[ViewLoader]" = weakref.WeakSet()


def _close_loaders() -> None:
    """End all workers before multiprocessing does, which would wait for ever for them."""
    for loader in [*_open_loaders]:
        loader.close()


def _close_at_exit() -> None:
    """Have all loaders closed when this process ends, before torch and multiprocessing try."""
    atexit.unregister(_close_loaders)
    atexit.register(_close_loaders)
    if os.getpid() not in _processes:  # one that multiprocessing started runs no atexit
        _processes.add(os.getpid())
        Finalize(None, _close_loaders, exitpriority=_FIRST)


def _begin_worker(worker: int) -> None:
    """Make a loader worker pass over signals, and end without a word when the main process does."""
    outlive_signals()
    sys.excepthook = _tell_but_not_of_the_end


def _tell_but_not_of_the_end(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    # a thread of multiprocessing hands over batches, and tells if the main process ends in one
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _dismiss(iterator: Any) -> None:
    """Tell the workers of torch's loader to end, as it does; it would wait ten seconds for each."""
    _forget(iterator)
    if hasattr(iterator, "_pin_memory_thread"):
        iterator._worker_result_queue.put((None, None))  # wakes it
        iterator._pin_memory_thread.join(_END_SECONDS)
        iterator._worker_result_queue.cancel_join_thread()
    iterator._workers_done_event.set()
    for requests in iterator._index_queues:
        requests.put(None)
        requests.cancel_join_thread()


def _forget(iterator: Any) -> None:
    """Have torch's loader look no more after its workers: their end would be an error."""
    iterator._shutdown = True
    if hasattr(iterator, "_pin_memory_thread"):
        iterator._pin_memory_thread_done_event.set()
    if iterator._worker_pids_set:
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def _unchanged(batch: T) -> T:
    return batch
