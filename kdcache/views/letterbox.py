"""The whole image on a canvas of a fixed size, its sides in proportion: the view of detection.

[[transforms]]
name = "kdcache.Letterbox"
size = "input"
fill = 114      # of what the image leaves of the canvas
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional


class Letterbox(nn.Module):
    """Resizes an image until it touches the sides of the canvas, and fills what is left to its
    right or below it.

    Args:
        size: height and width of the canvas, or the side of a square one.
        interpolation: of the image.
        fill: of the canvas, one number or one a channel.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        fill: Any = 0,
    ) -> None:
        super().__init__()
        if isinstance(size, int):
            size = (size, size)
        self.size = tuple(size)
        self._interpolation = interpolation
        self._fill = fill

    def forward(self, *inputs: Any) -> Any:
        """Return the image on its canvas, and what follows it."""
        height, width = functional.get_size(inputs[0])
        high, wide = self.size
        factor = min(high / height, wide / width)
        new_height = max(round(factor * height), 1)
        new_width = max(round(factor * width), 1)
        margins = [0, 0, wide - new_width, high - new_height]
        resize = v2.Resize(
            [new_height, new_width], interpolation=self._interpolation, antialias=True
        )
        pad = v2.Pad(margins, fill=self._fill)
        return v2.Compose([resize, pad])(*inputs)
