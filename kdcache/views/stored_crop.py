"""Cutting out what somebody else drew, see stored_transform.py."""

from collections.abc import Sequence
from typing import Any

from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from kdcache.errors import RecipeError
from kdcache.views.stored_transform import StoredTransform
from kdcache.views.stored_views import StoredViews, ViewKey


class StoredCrop(StoredTransform):
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
        super().__init__(views, stored_views)
        if isinstance(size, int):
            size = (size, size)
        self.size = list(size)
        self._interpolation = interpolation

    def forward(self, *inputs: Any, view: ViewKey | None = None) -> Any:
        """Return the image of a view, and what follows it.

        Raises:
            RecipeError: it is not said which view, or nothing is stored of it.
        """
        stored = self._stored(view)
        height, width = functional.get_size(inputs[0])
        top, left, bottom, right = stored.corners(height, width)
        is_outside = stored.is_in_pixels and (bottom > height or right > width)
        if bottom <= top or right <= left or is_outside:
            fault = "passes the end" if is_outside else "has no pixel"
            seed = "" if view is None else f" under seed {view.seed}"
            raise RecipeError(
                f"the box that is stored{seed} {fault} of an image of {height}x{width}; is this"
                " the image that it was drawn on?"
            )
        cut = Cut(
            box=(top, left, bottom - top, right - left),
            size=self.size,
            interpolation=self._interpolation,
            is_flipped=stored.is_flipped,
        )
        return cut(*inputs)


class Cut(v2.Transform):  # type: ignore[misc]
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
