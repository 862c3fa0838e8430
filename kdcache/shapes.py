"""The shape vocabulary of kdcache; signatures use these names and the tests check them with
beartype."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

Size: TypeAlias = int | tuple[int, int]
"""Pixels of a view: the side of a square one, or height and width."""

MOST_SIDE = 1 << 14
"""Pixels along a side of a view or of a map."""
MOST_PIXELS = 1 << 25
"""Of a view, and of what a transform makes, unless the image had more."""

Logits: TypeAlias = Float[Tensor, "rows classes"]
"""Raw class scores, one row per view, or per pixel of a map."""

ViewLogits: TypeAlias = Float[Tensor, "views *sites classes"]
"""Raw class scores of views: none but the classes for classification, (heads, height, width) before
them for segmentation."""

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
IGNORED = 255
"""What stands in a mask where a pixel has no class: no loss and no score looks there."""

View: TypeAlias = UInt8[Tensor, "channels height width"]
Views: TypeAlias = UInt8[Tensor, "rows channels height width"]
"""Pixels as rendered: 0 to 255, before any model's normalisation."""

Records: TypeAlias = np.ndarray
"""Structured array `[rows]` of a codec's dtype."""

Rows: TypeAlias = np.ndarray
"""Row numbers of a cache, int64 `[rows]`."""


class Labels(NamedTuple):
    """Class labels of views, or of their pixels; those of mixed views have a second label."""

    first: Targets | Masks
    mixed: tuple[Targets, PerRow] | None = None
    """The second label, and the share of the first; the second has the rest."""

    @property
    def leading(self) -> Targets | Masks:
        """The label of the larger share."""
        if self.mixed is None:
            return self.first
        second, share = self.mixed
        return torch.where(share >= 0.5, self.first, second)

    def to(self, move: Callable[[Tensor], Tensor]) -> "Labels":
        """Return the labels with every tensor moved."""
        first = move(self.first)
        if self.mixed is None:
            return Labels(first)
        second, share = self.mixed
        return Labels(first, (move(second), move(share)))


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
