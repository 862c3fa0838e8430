"""Cutting out what somebody else drew, for caches that were imported.

[[transforms]]
name = "kdcache.StoredCrop"
size = "input"
views = "..."                 # the digest of the stored views, which the cache keeps
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from kdcache.errors import RecipeError
from kdcache.views.stored_views import StoredViews

ViewKey = tuple[int, int]
"""The number of a sample in its source, and a seed."""


class StoredCrop(nn.Module):
    """Cuts out the box that is stored of a view, resizes it to `size`, and flips it if that is
    stored.

    Args:
        size: of the view, a side or height and width.
        views: the digest of the stored views.
        interpolation: of the image; a mask takes the nearest pixel.
        stored_views: of that digest.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        views: str,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        stored_views: StoredViews | None = None,
    ) -> None:
        super().__init__()
        if stored_views is None or stored_views.digest != views:
            raise ValueError(
                "its views are kept in the cache that was imported with it, and are not here; take"
                " the recipe from that cache"
            )
        if isinstance(size, int):
            size = (size, size)
        self.size = list(size)
        self._interpolation = interpolation
        self._views = stored_views

    def forward(self, *inputs: Any, view: ViewKey | None = None) -> Any:
        """Return the image of a view, and what follows it.

        Raises:
            RecipeError: it is not said which view, or nothing is stored of it.
        """
        if view is None:
            raise RecipeError(
                "kdcache.StoredCrop cuts out what is stored of a sample under a seed, and an image"
                " alone says neither; render it by a ViewDataset, and name the transform outside"
                " of others"
            )
        stored = self._views.view(*view)
        height, width = functional.get_size(inputs[0])
        top, left, bottom, right = stored.corners(height, width)
        if bottom <= top or right <= left:
            raise RecipeError(
                f"the box that is stored under seed {view[1]} has no pixel of an image of"
                f" {height}x{width}; is this the image that it was drawn on?"
            )
        cut = _Cut(
            box=(top, left, bottom - top, right - left),
            size=self.size,
            interpolation=self._interpolation,
            is_flipped=stored.is_flipped,
        )
        return cut(*inputs)


class _Cut(v2.Transform):  # type: ignore[misc]
    """Cuts out one box, resizes and perhaps flips it; of what follows an image, too."""

    def __init__(
        self,
        *,
        box: tuple[int, int, int, int],
        size: list[int],
        interpolation: InterpolationMode,
        is_flipped: bool,
    ) -> None:
        super().__init__()
        self._box = box
        self._size = size
        self._interpolation = interpolation
        self._is_flipped = is_flipped

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return an image, or a mask or boxes that follow it, torchvision's names."""
        crop = functional.resized_crop(
            inpt, *self._box, self._size, interpolation=self._interpolation, antialias=True
        )
        if self._is_flipped:
            return functional.horizontal_flip(crop)
        return crop
