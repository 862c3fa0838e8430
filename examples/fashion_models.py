"""Two small convolutional networks for 28x28 grey images, named `fashion_models:teacher` and `fashion_models:student`.

kdcache finds them when this folder is the working directory or on PYTHONPATH. A function takes the options of its spec
(`fashion_models:student,width=16`) and returns a torch.nn.Module from normalised images to class logits.
"""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, `width` channels in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*convolution(width, width), *convolution(width, width)[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return torch.relu(features + self.branch(features))


def convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution, its batch norm and a ReLU."""
    return [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def teacher(width: int = 24, classes: int = 10) -> nn.Module:
    """Return a residual network with stages of `width` channels at 14x14 pixels and twice that at 7x7."""
    wide = 2 * width
    stages = [*convolution(1, width, 2), Residual(width), *convolution(width, wide, 2), Residual(wide)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(wide * 7 * 7, classes))


def student(width: int = 8, classes: int = 10) -> nn.Module:
    """Return three strided convolutions of `width`, twice and twice that channels; at width 8 it has 6,178 parameters."""
    wide = 2 * width
    stages = [*convolution(1, width, 2), *convolution(width, wide, 2), *convolution(wide, wide, 2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(wide * 4 * 4, classes))
