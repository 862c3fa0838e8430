"""Scaling an image, and what follows it, by a factor from a list.

[[transforms]]
name = "kdcache.RandomScale"
scales = [0.5, 0.75, 1.0, 1.5, 2.0]
"""

from typing import Any

import torch
from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional


class RandomScale(nn.Module):
    """Multiplies height and width by one of `scales`, all equally likely.

    Args:
        scales: the factors.
        interpolation: of the image; the mask takes the nearest pixel.
    """

    def __init__(
        self, scales: list[float], interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        super().__init__()
        if not scales or not all(0 < scale <= 16 for scale in scales):
            raise ValueError(
                f"scales is {scales!r}; it must be a list of factors above 0, none above 16"
            )
        self.scales = scales
        self._interpolation = interpolation

    def forward(self, *inputs: Any) -> Any:
        """Return the image, and what follows it, at a scale that is drawn from torch's
        generator."""
        scale = self.scales[int(torch.randint(len(self.scales), ()))]
        height, width = functional.get_size(inputs[0])
        size = [max(round(scale * height), 1), max(round(scale * width), 1)]
        resize = v2.Resize(size, interpolation=self._interpolation, antialias=True)
        return resize(*inputs)
