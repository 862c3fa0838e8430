"""What a run replays: its views, and the caches that hold their records."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.cache import Cache, Commit
from kdcache.cache.local_units import LocalUnits
from kdcache.loader.order import Blocks
from kdcache.loader.slab_reader import Reader, SlabReader, await_seed, own_commits
from kdcache.loader.window_reader import WindowReader
from kdcache.runtime.distributed import on_main
from kdcache.shapes import ClassMap, Rows
from kdcache.sources import Source
from kdcache.views import Recipe, row_order


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """One of a run's caches, and how its teacher counts."""

    cache: Cache
    weight: float = 1.0
    classes: ClassMap | None = None
    """The student's class of each of the teacher's classes; None where the classes are the
    same."""
    is_partial: bool = False
    """Whether seeds may lack units."""
    wait_seconds: float | None = None
    """How long a unit that is not there yet is waited for."""
    stream: WindowReader | None = None
    """Reads window by window, where that is wanted."""
    units: LocalUnits | None = None
    """Its tars, if the images of the run come from them."""

    def reader(self) -> Reader:
        """Return what reads its records."""
        if self.stream is not None:
            return self.stream
        fetch = None
        if self.units is not None:
            fetch = self.units.fetch
        return SlabReader(
            self.cache,
            is_partial=self.is_partial,
            commits=self.commits,
            is_growing=self.wait_seconds is not None,
            fetch=fetch,
        )

    def check_images(self, seeds: Sequence[int]) -> None:
        """Compare the tars that images come from with their commits, unless that was done on this
        machine before.

        What is read window by window is compared when its turn comes.

        Raises:
            DamagedUnitError: a tar is not what was committed.
        """
        if self.units is None or self.stream is not None:
            return
        for seed in seeds:
            self.units.prepare(self.cache.held_commits(seed))

    def ready(self, seed: int) -> None:
        """Block until `seed` can be read, if its units are waited for; all processes must ask.

        Raises:
            MissingUnitError: they do not come.
        """
        if self.wait_seconds is not None:
            on_main(lambda: self._await(seed), f"seed {seed} of cache {self.cache}", is_long=True)

    def commits(self, seed: int) -> list[Commit]:
        """Return the commits of `seed` that rank 0 sees, in order; all processes must ask.

        A cache that is still written to may hold more by the time that another process looks, or
        one that is read through a network file system seem to hold less.

        Raises:
            MissingUnitError: units that are not committed, of a seed that is not to be partial.
        """

        def commits_here() -> list[Commit]:
            self._await(seed)
            commits_of = own_commits(self.cache, is_partial=self.is_partial)
            return list(commits_of(seed))

        what = f"the commits of seed {seed} of cache {self.cache}"
        return on_main(commits_here, what, is_long=True)

    def unavailable(self, seed: int) -> tuple[Rows, Rows]:
        """Return the rows of `seed` that are absent, and that are missing; all processes must ask.

        Raises:
            MissingUnitError: units that are not committed, of a seed that is not to be partial.
        """
        return self.cache.unavailable(self.commits(seed))

    def _await(self, seed: int) -> None:
        if self.wait_seconds is not None:
            await_seed(self.cache, seed, self.wait_seconds)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The views of a run."""

    source: Source
    recipe: Recipe
    caches: list[CacheUse]
    seeds: list[int]
    """That epochs take in turn."""
    samples: Rows | None
    """Rows to train on, where these are not all."""
    blocks: Blocks | None = None
    """In whose windows rows come, where they are not all shuffled together."""

    @property
    def order(self) -> Rows:
        """Row r is sample `order[r]` of the source."""
        if not self.caches:
            return row_order(len(self.source), 0)
        return self.caches[0].cache.order

    def rows(self, left_out: Rows) -> Rows:
        """Return the rows to train on, without those of `left_out`."""
        rows = self.samples
        if rows is None:
            rows = np.arange(len(self.source))
            if not len(left_out):
                return rows  # sorting millions of rows would take seconds
        return np.setdiff1d(rows, left_out)

    def seeds_of(self, epoch: int, *, repeats: int) -> list[int]:
        """Return the seeds whose turn it is in an epoch, which takes so many."""
        first = epoch * repeats
        return [self.seeds[turn % len(self.seeds)] for turn in range(first, first + repeats)]

    @property
    def samples_digest(self) -> str:
        """What tells the samples to train on from others."""
        if self.samples is None:
            return "all"
        return hashlib.sha256(self.samples.tobytes()).hexdigest()

    @property
    def streams(self) -> list[WindowReader]:
        """What reads the caches window by window, where that is wanted."""
        return [use.stream for use in self.caches if use.stream is not None]

    def open_streams(self, left: Rows, *, run_seed: int, epoch: int) -> Callable[[Rows], None]:
        """Have what is read window by window make ready for an epoch.

        Args:
            left: the views that are left of it, in their order, each with its row first.
            run_seed: of the order.
            epoch: its number.

        Returns:
            What must be told of the views of each step.
        """
        streams = self.streams
        if streams and len(left) and self.blocks is not None:
            windows = self.blocks.windows(run_seed, epoch)
            first_row = int(left[0, 0])
            for stream in streams:
                stream.open_epoch(windows, first_row)

        def before(step: Rows) -> None:
            for stream in streams:
                stream.before(step)

        return before
