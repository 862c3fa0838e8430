"""The order of training views: a function of (run seed, epoch) only, cut into steps, parts of
steps, and processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.errors import UsageError
from kdcache.shapes import Rows
from kdcache.views import Recipe, in_pairs, keyed_permutation, partners
from kdcache.views.dataset import Request

# domains of the key, beside those of other permutations
_ORDER = 1
_UNITS = 2
_WITHIN = 3


def epoch_views(
    rows: Rows,
    length: int,
    seeds: Sequence[int],
    recipe: Recipe,
    *,
    run_seed: int,
    epoch: int,
    blocks: "Blocks | None" = None,
) -> Rows:
    """Return the views of one epoch in training order, (row, seed), int64 `[views, 2]`.

    With one seed each row comes once, and next to the partner that it is mixed with. With n of them
    (repeated augmentation, Hoffer et al., CVPR 2020) one row in n comes, n times on end, so that an
    epoch stays as long as it was.

    Args:
        rows: those that are there, int64.
        length: rows of the source.
        seeds: of this epoch.
        recipe: of the views.
        run_seed: of the run.
        epoch: from 0.
        blocks: in whose windows rows come; by default all rows are shuffled together.
    """
    if blocks:
        parts = blocks.parts(run_seed, epoch)
    else:
        parts = [keyed_permutation(length, _ORDER, run_seed, epoch)]
    if len(rows) < length:
        parts = [part[np.isin(part, rows)] for part in parts]
    if recipe.mixing is not None and len(seeds) == 1:
        partner_of = partners(length, recipe.mixing, recipe.key, seeds[0])
        # partners are in one unit, hence in one window
        parts = [in_pairs(part, partner_of) for part in parts]
    ordered = parts[0] if len(parts) == 1 else np.concatenate(parts)
    num_views = len(ordered)
    if len(seeds) > 1:
        num_rows = -(-num_views // len(seeds))
        ordered = np.repeat(ordered[:num_rows], len(seeds))[:num_views]
    views = np.empty((num_views, 2), np.int64)
    views[:, 0] = ordered
    for turn, seed in enumerate(seeds):
        views[turn :: len(seeds), 1] = seed
    return views


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """An order in which few units of rows are needed at a time: units in a keyed order, and rows in
    one within each window."""

    length: int
    """Rows of the source."""
    unit_rows: int
    window: int
    """Units whose rows are shuffled together."""

    def windows(self, run_seed: int, epoch: int) -> list[Rows]:
        """Return the units of each window, in order, int64."""
        num_units = -(-self.length // self.unit_rows)
        units = keyed_permutation(num_units, _UNITS, run_seed, epoch)
        windows = []
        for start in range(0, num_units, self.window):
            window = units[start : start + self.window]
            windows.append(window)
        return windows

    def parts(self, run_seed: int, epoch: int) -> list[Rows]:
        """Return the rows of each window in the order of an epoch, int64."""
        parts = []
        for number, window in enumerate(self.windows(run_seed, epoch)):
            rows = np.concatenate([self._rows(unit) for unit in window.tolist()])
            order = keyed_permutation(len(rows), _WITHIN, run_seed, epoch, number)
            parts.append(rows[order])
        return parts

    def _rows(self, unit: int) -> Rows:
        start = unit * self.unit_rows
        stop = min(start + self.unit_rows, self.length)
        return np.arange(start, stop)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a batch of views is divided: among processes, and in parts of which the gradients are
    added up."""

    batch_size: int
    """Views of a step, over all processes."""
    parts: int = 1
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.parts * self.processes):
            raise UsageError(
                f"batch_size is {self.batch_size}, which does not divide among {self.processes}"
                f" processes and {self.parts} accumulated parts; it counts the views of a step over"
                " all of them"
            )

    def of(self, views: Rows) -> list[Rows]:
        """Return this process' share of each part of a batch.

        Of one that is not full a few views may be left out, so that all shares are of one size.
        """
        num_shares = self.parts * self.processes
        num_views = len(views) - len(views) % num_shares
        shares = np.array_split(views[:num_views], num_shares)
        return shares[self.process :: self.processes]


class EpochSampler:
    """Yields this process' batches of the epoch that was set, one for each part of each step.

    A last batch that is not full is dropped, unless it is the only one: its statistics over the
    batch would be others.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._views: Rows = np.empty((0, 2), np.int64)
        self._first = 0
        self._before: Callable[[Rows], None] = lambda views: None

    def set_epoch(
        self,
        views: Rows,
        *,
        first_step: int = 0,
        before: Callable[[Rows], None] = lambda views: None,
    ) -> None:
        """Take the views of the next epoch.

        Args:
            views: in order, (row, seed).
            first_step: the steps before it are done.
            before: called with the views of a step, of all processes, before they are asked for; it
                may take its time.

        Raises:
            UsageError: they are fewer than there are parts of a step.
        """
        shares = self._split.parts * self._split.processes
        if 0 < len(views) < shares:
            raise UsageError(
                f"an epoch has {len(views)} views, and a step is of {shares} parts: accumulate is"
                f" {self._split.parts}, and there are {self._split.processes} processes; choose"
                " fewer, or more samples"
            )
        self._views = views
        self._first = first_step
        self._before = before

    @property
    def num_steps(self) -> int:
        """The steps of the whole epoch."""
        return num_steps(len(self._views), self._split.batch_size)

    @property
    def views_per_step(self) -> int:
        """Views of a step, over all processes; fewer than a whole one only if it is alone."""
        return min(len(self._views), self._split.batch_size)

    def __len__(self) -> int:
        """Return the number of batches that are left of the epoch."""
        return (self.num_steps - self._first) * self._split.parts

    def __iter__(self) -> Iterator[Request]:
        """Yield (row, seed) pairs, batch by batch."""
        size = self._split.batch_size
        for step in range(self._first, self.num_steps):
            start = step * size
            views = self._views[start : start + size]
            self._before(views)
            for part in self._split.of(views):
                yield [(row, seed) for row, seed in part.tolist()]


def num_steps(views: int, batch_size: int) -> int:
    """Return the number of steps of an epoch of `views` views."""
    if not views:
        return 0
    return max(views // batch_size, 1)
