"""The objects of an image: a box and a class each."""

from dataclasses import dataclass

from kdcache.deferred import Tensor


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
    scale: float = 1.0
    """Pixels of the original image to one of the view, by area; NaN where that is not known."""

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
            self.scale,
        )
