"""The batches of each step, from views and caches that are open: what a training reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

from kdcache.errors import KdcacheError, UsageError, quoted
from kdcache.loader.batch import DistillationBatch
from kdcache.loader.config import LoaderConfig
from kdcache.loader.identity import (
    identity_of,
    order_of,
    require_as_many,
    require_identity,
    require_one_loader,
    require_order,
)
from kdcache.loader.order import EpochSampler, Split, epoch_views, num_steps
from kdcache.loader.replay import Replay
from kdcache.loader.state import require_state, whole_number
from kdcache.loader.teacher_opening import open_teacher
from kdcache.loader.teachers import Teacher
from kdcache.losses import Need
from kdcache.positions import Layout
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import rank, world_size
from kdcache.runtime.full_precision import without_autocast
from kdcache.runtime.wording import named
from kdcache.shapes import Rows, Size
from kdcache.sources import Source
from kdcache.views import Batch, ViewDataset, ViewLoader

_NO_ROWS: Rows = np.empty(0, np.int64)
OfLoader = TypeVar("OfLoader", bound="StepLoader")


class StepLoader:
    """Iterates over the batches of one epoch after the other, of a run whose views are open."""

    def __init__(
        self,
        config: LoaderConfig,
        replay: Replay,
        compute: Compute,
        needs: frozenset[Need],
        *,
        sizes: Sequence[Size],
        layout: Layout | None,
    ) -> None:
        """Open where soft targets come from.

        Args:
            config: the run's settings.
            replay: its views.
            compute: where batches come to.
            needs: what its loss requires.
            sizes: the input sizes of the students, each once; batches come at the first.
            layout: of the student's logits; None for the teacher's.

        Raises:
            UsageError: records that do not hold what the loss needs.
            RecipeError: the student would see another draw of the views than the teacher.
            KdcacheError: a teacher that cannot be opened.
        """
        self.config = config
        self.replay = replay
        self.compute = compute
        self._needs = needs
        self._sizes = [*sizes]
        self._layout = layout
        self.teacher, rendered_sizes = self._opened_teacher()
        self._sampler = EpochSampler(
            Split(
                batch_size=self._batch_size,
                parts=config.accumulate,
                process=rank(),
                processes=world_size(),
            )
        )
        self._processes = world_size()
        self._views = ViewLoader(
            ViewDataset(replay.source, replay.recipe, replay.order, sizes=rendered_sizes),
            self._sampler,
            workers=config.compute.workers,
            pin_memory=compute.pin_memory,
        )
        self.epoch = 0
        """The epoch that is to come, or that is at work."""
        self.step = 0
        """Steps of it that are done; a program that sets 0 begins the epoch anew."""
        self._left_out = _NO_ROWS
        self._loop: object | None = None
        """Stands for the loop that may go on; None since the loader was sent elsewhere."""

    @property
    def source(self) -> Source:
        """The data."""
        return self.replay.source

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return self.replay.source.classes

    @property
    def num_channels(self) -> int:
        """Channels of the views: 3, or 1 of grey ones."""
        return self.replay.recipe.channels

    @property
    def _batch_size(self) -> int:
        return chosen(self.config.batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of the epoch that is at work, 0 before the first; rows that its seed lacks are not
        in it. For a schedule take `steps_per_epoch`."""
        return self._sampler.num_steps

    @property
    def views_per_step(self) -> int:
        """Views of each step of the epoch that is at work, over all processes: `batch_size`, or
        all, if there are fewer."""
        return self._sampler.views_per_step

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch that lacks no row, for a schedule."""
        rows = self.replay.rows(_NO_ROWS)
        return num_steps(len(rows), self._batch_size)

    def __len__(self) -> int:
        """Return the batches of a whole epoch that lacks no row, in this process."""
        return self.steps_per_epoch * self.config.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the one that is begun goes on where it was.

        Raises:
            UsageError: a number that is none of an epoch.
        """
        number = whole_number(epoch)
        if number is None:
            raise UsageError(f"epoch is {quoted(epoch)}; it must be a whole number, 0 or more")
        if number != self.epoch:
            self.epoch = number
            self.step = 0
            self._loop = None

    def __iter__(self) -> Iterator[DistillationBatch]:
        """Yield the batches that are left of the epoch, and go to the next one.

        A batch counts as done as soon as the loop has it, and the epoch with its last one: take
        `state_dict` after the step.

        Raises:
            MismatchError: another process of this loop has another loader, or is at another step.
            UsageError: the loader was sent elsewhere while the loop ran: by another loop over it,
                `set_epoch` or `load_state_dict`.
            KdcacheError: units that are missing or damaged, samples that cannot be read.
        """
        self._require_agreement()
        loop = object()
        self._loop = loop
        self.start_epoch()
        epoch = self.epoch
        parts = self.config.accumulate
        for number, batch in enumerate(self.rendered(), start=1):
            placed = self.placed(batch)
            if number % parts == 0:
                self.step += 1
            is_last = self.step == self.num_steps
            if is_last:
                # a loop that counts batches does not come back after the last one
                self.end_epoch()
            yield placed
            if self._loop is loop:
                continue
            if is_last:
                return
            raise UsageError(
                "the loader was sent elsewhere while a loop over it ran, by another loop, set_epoch"
                " or load_state_dict: leave the loop first (break), or open a second loader"
            )
        if self.epoch == epoch:
            self.end_epoch()  # none of its batches was left

    def _require_agreement(self) -> None:
        """Check that the loaders of all processes are about to share the same steps.

        Raises:
            UsageError: the processes were joined, or parted, after it was opened.
            MismatchError: another process has another loader, or is at another step.
        """
        require_as_many(self._processes)
        if self._processes == 1:
            return
        facts = {
            **self.identity(),
            **order_of(self.config, self.replay),
            "accumulate": self.config.accumulate,
            "seeds": self.replay.seeds,
            "epoch": self.epoch,
            "step": self.step,
        }
        require_one_loader(facts)

    def start_epoch(self) -> list[int]:
        """Make ready for what is left of the epoch, and return its seeds.

        Raises:
            KdcacheError: units that are missing or damaged; no row that could be read.
        """
        seeds = self._seeds_of(self.epoch)
        following = []
        if self.epoch + 1 < self.config.epochs:
            following = self._seeds_of(self.epoch + 1)
        self._left_out = self._start_teacher(seeds, following)
        for use in self.replay.caches:
            use.check_images(seeds)
        views = self._views_of(seeds)
        left = views[self.step * self._batch_size :]
        before = self.replay.open_streams(left, run_seed=self.config.order, epoch=self.epoch)
        self._sampler.set_epoch(views, first_step=self.step, before=before)
        return seeds

    def _seeds_of(self, epoch: int) -> list[int]:
        return self.replay.seeds_of(epoch, repeats=self.config.repeats)

    def _start_teacher(self, seeds: list[int], following: list[int]) -> Rows:
        """Make the teacher ready for the epoch, and return the rows that it leaves out; of an epoch
        that was begun they are those of then.

        It sees the units that rank 0 sees: a cache that is still written to may hold more by the
        time that another process, or a resumed run, looks, but never less.
        """
        rows_by_seed = self.teacher.start(seeds, following)
        if self.step:
            return self._left_out
        return np.unique(np.concatenate(list(rows_by_seed.values())))

    def _views_of(self, seeds: list[int]) -> Rows:
        """Return the views of the epoch in training order, (row, seed), int64 `[views, 2]`.

        Raises:
            KdcacheError: no row that could be read.
        """
        rows = self.replay.rows(self._left_out)
        if not len(rows):
            raise KdcacheError(
                f"nothing to train on: of the samples of {self.replay.source.spec} that are asked"
                f" for, seed {seeds[0]} holds none that could be read when it was dumped"
            )
        return epoch_views(
            rows,
            len(self.replay.source),
            seeds,
            self.replay.recipe,
            run_seed=self.config.order,
            epoch=self.epoch,
            blocks=self.replay.blocks,
        )

    def rendered(self) -> Iterator[Batch]:
        """Yield the views of this process that are left of the epoch, as they come from the
        workers."""
        return iter(self._views)

    def placed(self, batch: Batch) -> DistillationBatch:
        """Return a batch on the device, with the teacher's soft targets."""
        labels = batch.labels.to(self.compute.move)
        with without_autocast(self.compute.device):  # of a loop that iterates in one
            teacher = self.teacher.soft_targets(batch)
        images = self.compute.move(batch.views[0])
        return DistillationBatch(images, labels, teacher, batch.rows, batch.seeds, self.num_classes)

    def placed_by_size(self, batch: Batch) -> dict[Size, DistillationBatch]:
        """Return a batch on the device for each input size of the students: images are their own,
        all else is one."""
        first = self.placed(batch)
        placed = {self._sizes[0]: first}
        for place, size in enumerate(self._sizes[1:], start=1):
            placed[size] = replace(first, images=self.compute.move(batch.views[place]))
        return placed

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on after the batch that the loop had last, as plain
        values and tensors.

        It is the same in all processes.
        """
        return {
            "epoch": self.epoch,
            "epoch_step": self.step,
            "seeds": self.replay.seeds,
            "left_out": torch.from_numpy(self._left_out),
            "identity": self.identity(),
            "order": order_of(self.config, self.replay),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, also with another number of processes or workers.

        Raises:
            UsageError: it is no state of a loader.
            MismatchError: it is of other data, another cache, another teacher, or of another order.
        """
        require_state(state)
        require_identity(state, self.identity())
        require_order(state, order_of(self.config, self.replay))
        self._loop = None
        if state["seeds"] != self.replay.seeds:
            self._keep_to(state["seeds"])
        self.epoch = state["epoch"]
        self.step = state["epoch_step"]
        self._left_out = state["left_out"].numpy()

    def _keep_to(self, seeds: list[int]) -> None:
        """Go on with the seeds that the run began with, of a cache that has more by now: with these
        their turns would change."""
        own_seeds = named(seeds, "seed")
        present_seeds = named(self.replay.seeds, "seed")
        say(
            f"note: the run goes on with {own_seeds}, which it began with; the cache holds"
            f" {present_seeds} by now"
        )
        self.replay = replace(self.replay, seeds=seeds)
        self.teacher, _ = self._opened_teacher()

    def identity(self) -> dict[str, str]:
        """Return what the order and the soft targets depend on: fingerprints by name."""
        return identity_of(self.replay, self.teacher)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied: a copy would share workers and files, and count steps of its own.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a loader cannot be copied or sent to another process; open one there, and give it the"
            " state_dict() of this one"
        )

    def close(self) -> None:
        """End loader workers, and what is fetched ahead."""
        self._views.close()
        for stream in self.replay.streams:
            stream.close()

    def __enter__(self: OfLoader) -> OfLoader:
        """Return the loader, which is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the loader."""
        self.close()

    def _opened_teacher(self) -> tuple[Teacher, list[Size]]:
        """Return where soft targets come from, and the input sizes to render."""
        return open_teacher(
            self.config,
            self.replay,
            self._needs,
            self.compute,
            sizes=self._sizes,
            layout=self._layout,
        )
