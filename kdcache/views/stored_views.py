"""Stored views: crops and flips that somebody else drew, for each sample under each seed.

They are data of a cache, not draws. A recipe names them by their digest, see stored_crop.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kdcache.errors import RecipeError

Boxes = np.ndarray[Any, np.dtype[np.float32]]
"""Top, left, height and width in shares of the image's height and width, `[..., 4]`."""
Flips = np.ndarray[Any, np.dtype[np.uint8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
BYTES_PER_VIEW = 17
"""Of a box and a flip."""
_SLACK = 2.0**-9
"""By which a box may pass the image's end: shares that were published in float16 are rounded."""
_BOXES = "boxes"
_FLIPS = "flips"


class StoredView(NamedTuple):
    """What is stored of a view."""

    top: float
    left: float
    height: float
    width: float
    is_flipped: bool

    def corners(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the first row, the first column, and one past the last row and column, of an image
        of so many pixels.

        Both ends are rounded, not the length: so the crop is that of Pillow, which those who stored
        the boxes used.
        """
        top = self.top * height
        left = self.left * width
        bottom = top + self.height * height
        right = left + self.width * width
        return round(top), round(left), round(bottom), round(right)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredViews:
    """The stored views of a source: seeds from 0 on."""

    digest: str
    """Of the arrays, which a recipe names."""
    boxes: Boxes
    """`[seeds, samples, 4]`; zeros where nothing is stored."""
    flips: Flips
    """Whether a view is flipped after it was cut out, 1 or 0, `[seeds, samples]`."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], digest: str) -> "StoredViews":
        """Return the views that a cache keeps under a digest.

        Raises:
            ValueError: arrays that are no such views.
        """
        if arrays.keys() != {_BOXES, _FLIPS}:
            raise ValueError(f"stored views are boxes and flips, not {', '.join(arrays)}")
        boxes = arrays[_BOXES]
        flips = arrays[_FLIPS]
        if boxes.dtype != "<f4" or boxes.shape != (*flips.shape, 4) or flips.ndim != 2:
            raise ValueError(f"boxes of shape {boxes.shape} and flips of shape {flips.shape}")
        if flips.dtype != np.uint8 or flips.max(initial=0) > 1:
            raise ValueError("flips that are neither 0 nor 1")
        # a seed at a time: all may be a gigabyte
        for seed_boxes in boxes:
            is_empty = (seed_boxes == 0).all(-1)
            if not (is_empty | are_boxes(seed_boxes)).all():
                raise ValueError("a box that does not lie in its image")
        return cls(digest=digest, boxes=boxes, flips=flips)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What a cache keeps."""
        return views_arrays(self.boxes, self.flips)

    @property
    def num_seeds(self) -> int:
        """How many seeds there are."""
        return len(self.flips)

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self.flips[0])

    def are_there(self, seed: int) -> Mask:
        """Return which samples have a view under `seed`, bool `[samples]`."""
        is_there: Mask = self.boxes[seed, :, 2] > 0
        return is_there

    def view(self, index: int, seed: int) -> StoredView:
        """Return what is stored of sample `index` under `seed`.

        Raises:
            RecipeError: nothing is.
        """
        if seed >= self.num_seeds:
            raise RecipeError(
                f"no views are stored under seed {seed}; there are seeds 0 to {self.num_seeds - 1}"
            )
        top, left, height, width = self.boxes[seed, index].tolist()
        if not height:
            raise RecipeError(
                f"no view is stored under seed {seed}; its record is absent, leave it out"
            )
        return StoredView(top, left, height, width, bool(self.flips[seed, index]))


def views_arrays(boxes: Boxes, flips: Flips) -> dict[str, np.ndarray]:
    """Return boxes and flips by the names that a cache keeps them under."""
    return {_BOXES: boxes, _FLIPS: flips}


def are_boxes(boxes: Boxes) -> Mask:
    """Return which of some boxes, `[..., 4]`, are not empty and lie in their image; NaN does
    not."""
    starts = boxes[..., :2]
    sizes = boxes[..., 2:]
    is_inside = (starts >= 0) & (sizes > 0) & (starts + sizes <= 1 + _SLACK)
    return np.asarray(is_inside.all(-1))
