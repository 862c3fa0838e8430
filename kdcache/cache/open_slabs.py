"""The slabs that a cache keeps open, to read the records of rows under several seeds."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdcache.cache.slab import Slab
from kdcache.errors import UsageError, quoted
from kdcache.shapes import Records, Rows

_MOST_OPEN = 16
"""Seeds whose slabs stay open."""


class OpenSlabs:
    """The slabs of the seeds that were read last."""

    def __init__(self) -> None:
        """Begin with none."""
        self._slabs: OrderedDict[int, Slab] = OrderedDict()

    def records(
        self,
        seeds: int | Rows | Sequence[int],
        rows: Rows,
        open_slab: Callable[[int], Slab],
        dtype: "np.dtype[Any]",
    ) -> Records:
        """Return the records of `rows` under `seeds`, in their order.

        Args:
            seeds: one for all rows, or one a row.
            rows: of the slabs.
            open_slab: returns the slab of a seed, which never changes.
            dtype: of a record.

        Raises:
            UsageError: no whole numbers, or seeds that are not as many as rows.
        """
        if isinstance(seeds, bool):
            raise UsageError(f"seeds is {seeds}; give one seed, or one for each row")
        if isinstance(seeds, int | np.integer):
            return self._slab(int(seeds), open_slab).gather(rows)
        seed_of_row = whole_numbers(seeds, "seeds")
        if seed_of_row.shape != rows.shape:
            raise UsageError(
                f"seeds are of shape {seed_of_row.shape}, rows of {rows.shape}; give one seed, or"
                " one for each row"
            )
        records = np.empty(len(rows), dtype)
        for seed in np.unique(seed_of_row).tolist():
            is_of_seed = seed_of_row == seed
            records[is_of_seed] = self._slab(seed, open_slab).gather(rows[is_of_seed])
        return records

    def _slab(self, seed: int, open_slab: Callable[[int], Slab]) -> Slab:
        """Return the slab of a seed; the one used least recently is let go."""
        if seed not in self._slabs:
            self._slabs[seed] = open_slab(seed)
            if len(self._slabs) > _MOST_OPEN:
                self._slabs.popitem(last=False)
        self._slabs.move_to_end(seed)
        return self._slabs[seed]


def whole_numbers(numbers: Rows | Sequence[int], what: str) -> Rows:
    """Return whole numbers as an array.

    Raises:
        UsageError: they are none.
    """
    try:
        array = np.asarray(numbers)
    except ValueError:  # lists of different lengths
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"{what} are {quoted(numbers)}; they must be a list of whole numbers")
    return array.astype(np.int64)
