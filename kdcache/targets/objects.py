"""The objects of an image: a box and a class each."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from kdcache.deferred import Tensor


class Frame(NamedTuple):
    """Where a whole image is in a view of it."""

    sides: tuple[float, ...]
    """Left, upper, right and lower, in pixels of the view; a crop leaves some outside."""
    image_size: tuple[int, int]
    """Height and width of the image."""


NO_FRAME = Frame((math.nan,) * 4, (0, 0))
"""Of a view of which it is not known."""


@dataclass(frozen=True, eq=False)
class ObjectBoxes:
    """The objects of an image, or of a view of it."""

    boxes: Tensor
    """Left, upper, right and lower side, in pixels, float32 `[objects, 4]`."""
    classes: Tensor
    """Class indices, int64 `[objects]`."""
    areas: Tensor
    """Pixels of the original image that each object covers, float32 `[objects]`; scores by size go
    by it."""
    is_crowd: Tensor
    """Whether a box holds many objects, of which none is marked; bool `[objects]`."""
    frame: Frame = NO_FRAME
    """Of a view: where its image is."""

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.boxes)

    def at(self, places: Tensor) -> "ObjectBoxes":
        """Return some of the objects."""
        return ObjectBoxes(
            self.boxes[places],
            self.classes[places],
            self.areas[places],
            self.is_crowd[places],
            self.frame,
        )
