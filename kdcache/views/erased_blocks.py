"""Blocks that are erased in normalised pixels, brought to the 8 bits of a view."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.shapes import View

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of pixels from 0 to 1, as timm normalises them where nothing else is said."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Likewise."""


def levels(name: str, values: Sequence[float]) -> Tensor:
    """Return a mean or a deviation of pixels from 0 to 1 as levels, float32 `[channels, 1, 1]`.

    Raises:
        ValueError: neither one number nor three.
    """
    numbers = 255 * torch.tensor(values, dtype=torch.float32)
    if numbers.ndim != 1 or len(numbers) not in (1, 3):
        raise ValueError(
            f"{name} is {values!r}; it must be a list of three numbers, of red, green and blue, or"
            " of one"
        )
    return numbers[:, None, None]


def erased_view(view: View, canvas: Tensor, *, mean: Tensor, std: Tensor) -> View:
    """Return a view with what a canvas shows; noise is rounded, and cut off at black and white.

    Args:
        view: uint8.
        canvas: normalised pixels of blocks, and NaN between them, float32 `[channels, side,
            side]`. Over a view of another size it is stretched.
        mean: see `levels`.
        std: likewise.
    """
    if canvas[0].isnan().all():
        return view
    if canvas.shape != view.shape:
        batch = torch.nn.functional.interpolate(canvas[None], view.shape[1:], mode="nearest-exact")
        canvas = batch[0]
    pixels = canvas.mul(std[: len(view)]).add_(mean[: len(view)])
    pixels = pixels.round_().clamp_(0, 255)
    is_outside = pixels.isnan()
    return torch.where(is_outside, view, pixels.nan_to_num_().to(torch.uint8))
