"""The order of training samples: a function of (run seed, epoch) only."""

from collections.abc import Iterator

import numpy as np

from kdcache.shapes import Rows
from kdcache.views.loading import Request
from kdcache.views.order import keyed_permutation


def epoch_rows(length: int, absent: Rows, *, run_seed: int, epoch: int) -> Rows:
    """Return the rows of one epoch in training order: all of `range(length)` but those in `absent`."""
    rows = keyed_permutation(length, 1, run_seed, epoch)
    return rows[~np.isin(rows, absent)] if len(absent) else rows


class EpochSampler:
    """Yields the batches of the epoch that was set, each row under that epoch's seed.

    A last batch that is not full is dropped, unless it is the only one: its statistics over the batch would be others.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._rows: Rows = np.empty(0, np.int64)
        self._seed = 0

    def set_epoch(self, rows: Rows, seed: int) -> None:
        """Take the rows of the next epoch, in order, and the seed of its views."""
        self._rows, self._seed = rows, seed

    def __len__(self) -> int:
        """Return the number of batches of the epoch."""
        return num_steps(len(self._rows), self._batch_size)

    def __iter__(self) -> Iterator[Request]:
        """Yield (row, seed) pairs, batch by batch."""
        for step in range(len(self)):
            rows = self._rows[step * self._batch_size : (step + 1) * self._batch_size]
            yield [(int(row), self._seed) for row in rows]


def num_steps(rows: int, batch_size: int) -> int:
    """Return the number of batches of an epoch of `rows` rows."""
    return max(rows // batch_size, 1) if rows else 0
