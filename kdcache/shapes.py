"""The shape vocabulary of kdcache; signatures use these names and the tests check them with
beartype."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from kdcache.deferred import Tensor, torch

Size: TypeAlias = int | tuple[int, int]
"""Pixels of a view: the side of a square one, or height and width."""

MOST_CLASSES = 1 << 20
MOST_SIDE = 1 << 14
"""Pixels along a side of a view or of a map."""
MOST_PIXELS = 1 << 25
"""Of a view, and of what a transform makes, unless the image had more."""

Logits: TypeAlias = Float[Tensor, "rows classes"]
"""Raw class scores, one row per view, or per pixel of a map."""

ViewLogits: TypeAlias = Float[Tensor, "views *sites classes"]
"""Raw class scores of views: none but the classes for classification, (heads, height, width) before
them for segmentation."""

LogitRows: TypeAlias = Float[Tensor, "rows *anchors classes"]
"""Rows of logits; of the places of a detector those of several anchors side by side, each a
distribution of its own."""

ProbabilityRows: TypeAlias = Float[Tensor, "rows *anchors classes"]
"""Their probabilities."""

Maps: TypeAlias = Float[Tensor, "views height width classes"]
"""Raw class scores of one head over the pixels of its map."""

Probabilities: TypeAlias = Float[Tensor, "rows classes"]
"""Class probabilities, one row per view, each summing to 1."""

PerRow: TypeAlias = Float[Tensor, " rows"]
Scalar: TypeAlias = Float[Tensor, ""]
Targets: TypeAlias = Integer[Tensor, " rows"]
"""Class indices."""

Masks: TypeAlias = UInt8[Tensor, "views mask_height mask_width"]
"""Class indices of pixels; IGNORED where there is none."""
SmallMasks: TypeAlias = UInt8[Tensor, "views height width"]
"""The same, of the pixels of a map."""
ObjectClasses: TypeAlias = Integer[Tensor, "views most"]
"""Class indices of the objects in views; -1 past a view's own objects."""
IGNORED = 255
"""What stands in a mask where a pixel has no class: no loss and no score looks there."""

View: TypeAlias = UInt8[Tensor, "channels height width"]
Views: TypeAlias = UInt8[Tensor, "rows channels height width"]
"""Pixels as rendered: 0 to 255, before any model's normalisation."""

Activation = Literal["softmax", "sigmoid"]
"""How logits become probabilities: of classes that exclude each other, or of each class by
itself."""

Records: TypeAlias = np.ndarray
"""Structured array `[rows]` of a codec's dtype."""

Rows: TypeAlias = np.ndarray
"""Row numbers of a cache, int64 `[rows]`."""

ClassMap: TypeAlias = np.ndarray
"""The class, among others, that each class of a teacher is: int64 `[teacher classes]`, -1 for
none."""


@dataclass(frozen=True, eq=False)
class Objects:
    """Where the objects of views are: for each view as many places as the view with most has."""

    boxes: Float[Tensor, "views most 4"]
    """Left, upper, right and lower side of each, in pixels of the view."""
    areas: Float[Tensor, "views most"]
    """Pixels of the original image that each object covers."""
    is_crowd: Bool[Tensor, "views most"]
    """Whether a box holds many objects, of which none is marked."""
    frames: Float[Tensor, "views 4"]
    """Left, upper, right and lower side of the whole image, in pixels of the view; NaN where that
    is not known."""
    image_sizes: Float[Tensor, "views 2"]
    """Height and width of the original image."""

    @property
    def scales(self) -> Float[Tensor, " views"]:
        """Pixels of the original image to one of the view, by area; NaN where that is not known."""
        view_areas = (self.frames[:, 2:] - self.frames[:, :2]).abs().prod(1)
        scales = self.image_sizes.prod(1) / view_areas
        return torch.where(view_areas > 0, scales, torch.nan)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Objects":
        """Return the objects with every tensor changed."""
        return Objects(
            change(self.boxes),
            change(self.areas),
            change(self.is_crowd),
            change(self.frames),
            change(self.image_sizes),
        )

    def pin_memory(self) -> "Objects":
        """Return the objects in pinned memory, as a loader of torch asks for it."""
        return self.map(torch.Tensor.pin_memory)


class Detections(NamedTuple):
    """The objects that a detector found in one view, in any order."""

    boxes: Float[Tensor, "detections 4"]
    """Left, upper, right and lower side of each, in pixels of the view."""
    scores: Float[Tensor, " detections"]
    """How sure the detector is of each; only their order counts."""
    classes: Integer[Tensor, " detections"]
    """Class indices."""


class Labels(NamedTuple):
    """Class labels of views, of their pixels, or of the objects in them; those of mixed views have
    a second label."""

    first: Targets | Masks | ObjectClasses
    mixed: tuple[Targets, PerRow] | None = None
    """The second label, and the share of the first; the second has the rest."""
    objects: Objects | None = None
    """Where the objects are whose classes these are."""

    @property
    def leading(self) -> Targets | Masks | ObjectClasses:
        """The label of the larger share."""
        if self.mixed is None:
            return self.first
        second, share = self.mixed
        return torch.where(share >= 0.5, self.first, second)

    def to(self, move: Callable[[Tensor], Tensor]) -> "Labels":
        """Return the labels with every tensor moved."""
        mixed = None
        if self.mixed is not None:
            second, share = self.mixed
            mixed = (move(second), move(share))
        objects = None
        if self.objects is not None:
            objects = self.objects.map(move)
        return Labels(move(self.first), mixed, objects)


def as_size(value: Size | Sequence[int]) -> Size:
    """Return a size as it is compared: square ones as one number, others as (height, width)."""
    if isinstance(value, int):
        return value
    height, width = value
    if height == width:
        return height
    return height, width


def sides(size: Size) -> tuple[int, int]:
    """Return the height and width of a size."""
    if isinstance(size, int):
        return size, size
    return size


def size_text(size: Size | Sequence[int]) -> str:
    """Return a size as messages name it, height first."""
    if isinstance(size, int):
        size = sides(size)
    return "x".join(map(str, size))
