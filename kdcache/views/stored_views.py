"""Stored views: what somebody else drew, for each sample under each seed.

They are data of a cache, not draws. A recipe names them by their digest, see stored_transform.py;
which arrays there are says stored_arrays.py.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kdcache.errors import RecipeError
from kdcache.shapes import Rows
from kdcache.views.stored_arrays import (
    BLOCKS,
    CUTS,
    DRAW_SEEDS,
    FLIPS,
    OF_PARTNER,
    OPERATIONS,
    PARTNERS,
    PIXEL_BOXES,
    SHARES,
    Arrays,
    box_name,
    bytes_per_view,
    check_kinds,
    check_values,
    plain_array,
)


class ViewKey(NamedTuple):
    """Which view it is."""

    sample: int
    """Its number in its source."""
    seed: int
    is_partner: bool = False
    """Whether it is that of the sample that this one is mixed with."""


class StoredBox(NamedTuple):
    """A rectangle in shares of a height and width, or in pixels."""

    top: float
    left: float
    height: float
    width: float

    def corners(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the first row, the first column, and one past the last row and column, of a box in
        shares of so many pixels.

        Both ends are rounded, not the length: so the crop is that of Pillow, which those who stored
        the boxes used.
        """
        top = self.top * height
        left = self.left * width
        bottom = top + self.height * height
        right = left + self.width * width
        return round(top), round(left), round(bottom), round(right)


class StoredView(NamedTuple):
    """What is stored of a view before it is mixed."""

    box: StoredBox
    """That is cut out."""
    is_in_pixels: bool
    """What the box is in."""
    is_flipped: bool
    operations: tuple[int, ...]
    """Numbers in the table of the recipe's transform."""
    block: StoredBox | None
    """In shares of the view, that is erased."""

    def corners(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the first row, the first column, and one past the last row and column, that are
        cut out of an image of so many pixels."""
        if not self.is_in_pixels:
            return self.box.corners(height, width)
        top, left, rows, columns = map(int, self.box)
        return top, left, top + rows, left + columns


class StoredMix(NamedTuple):
    """What is stored of how a view is mixed."""

    partner: int
    """The number of the other sample."""
    share: float
    """Of the other view, which both are blended with; 0 if they are not."""
    cut: StoredBox | None
    """In shares of the view, which is then taken from the other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredViews:
    """The stored views of a source: seeds from 0 on."""

    digest: str
    """Of the arrays, which a recipe names."""
    arrays: Arrays
    """What a cache keeps, `[seeds, samples, ...]`."""

    @classmethod
    def from_arrays(cls, arrays: Arrays, digest: str) -> "StoredViews":
        """Return the views that a cache keeps under a digest.

        Raises:
            ValueError: arrays that are no such views.
        """
        check_kinds(arrays, num_axes=2)
        num_seeds, num_samples = arrays[plain_array(arrays)].shape
        # a seed at a time: all may be a gigabyte
        for seed in range(num_seeds):
            check_values({name: array[seed] for name, array in arrays.items()}, num_samples)
        return cls(digest=digest, arrays=arrays)

    @property
    def num_seeds(self) -> int:
        """How many seeds there are."""
        return len(self.arrays[plain_array(self.arrays)])

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self.arrays[plain_array(self.arrays)][0])

    @property
    def view_bytes(self) -> int:
        """Bytes of all arrays for a view."""
        return bytes_per_view(self.arrays, num_axes=2)

    @property
    def mixes(self) -> bool:
        """Whether views may be mixed with others."""
        return PARTNERS in self.arrays

    def view(self, key: ViewKey) -> StoredView:
        """Return what is stored of a view.

        Raises:
            RecipeError: nothing is.
        """
        prefix = OF_PARTNER if key.is_partner else ""
        box = self._box(prefix + box_name(self.arrays), key)
        if box is None:
            raise _not_stored(key)
        operations: tuple[int, ...] = ()
        if OPERATIONS in self.arrays:
            operations = tuple(self._value(prefix + OPERATIONS, key).tolist())
        return StoredView(
            box=box,
            is_in_pixels=PIXEL_BOXES in self.arrays,
            is_flipped=bool(self._value(prefix + FLIPS, key)),
            operations=operations,
            block=self._box(prefix + BLOCKS, key),
        )

    def draw_seed(self, key: ViewKey) -> int:
        """Return the seed of the generator that draws a view.

        Raises:
            RecipeError: none is stored.
        """
        if DRAW_SEEDS not in self.arrays or not self._value(DRAW_SEEDS, key):
            raise _not_stored(key)
        return int(self._value(DRAW_SEEDS, key)) - 1

    def mix(self, key: ViewKey) -> StoredMix | None:
        """Return how a view is mixed; None if it is not.

        Raises:
            RecipeError: no views are stored under that seed.
        """
        if not self.mixes or not self._value(PARTNERS, key):
            return None
        return StoredMix(
            partner=int(self._value(PARTNERS, key)) - 1,
            share=float(self._value(SHARES, key)),
            cut=self._box(CUTS, key),
        )

    def leading_samples(self, samples: Rows, seed: int) -> Rows:
        """Return of the views of `samples` under `seed` those whose label has the larger share,
        int64 `[views]`: of a view that is mixed, perhaps its partner."""
        if not self.mixes:
            return samples
        partners = self.arrays[PARTNERS][seed, samples].astype(np.int64) - 1
        cuts = self.arrays[CUTS][seed, samples].astype(np.float64)
        own_shares = (1 - self.arrays[SHARES][seed, samples]) * (1 - cuts[:, 2] * cuts[:, 3])
        return np.where((partners >= 0) & (own_shares < 0.5), partners, samples)

    def _box(self, name: str, key: ViewKey) -> StoredBox | None:
        """Return a box; None if it is empty, or none is stored of any view."""
        if name not in self.arrays:
            return None
        box = StoredBox(*self._value(name, key).tolist())
        return box if box.height else None

    def _value(self, name: str, key: ViewKey) -> Any:
        """Return what an array says of a view."""
        if key.seed >= self.num_seeds:
            raise RecipeError(
                f"no views are stored under seed {key.seed}; there are seeds 0 to"
                f" {self.num_seeds - 1}"
            )
        return self.arrays[name][key.seed, key.sample]


def _not_stored(key: ViewKey) -> RecipeError:
    """Return the error of a view that is not stored."""
    return RecipeError(
        f"no view is stored under seed {key.seed}; its record is absent, leave it out"
    )
