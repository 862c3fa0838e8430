"""Two networks for characters, 24x24 grey pixels: `characters_models:teacher` and
`characters_models:student`.

kdcache finds them when this folder is the working directory or on PYTHONPATH. A function takes the
options of its spec (`characters_models:student,width=128`) and returns a torch.nn.Module from
normalised images to class logits.
"""

import torch
from torch import Tensor, nn

SIDE = 24


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
    return [
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]


def teacher(width: int = 48, classes: int = 374) -> nn.Module:
    """Return a residual network with stages of `width` channels at 12x12 pixels and twice that at
    6x6; 1.5 M parameters."""
    wide = 2 * width
    stages = [
        *convolution(1, width, 2),
        Residual(width),
        *convolution(width, wide, 2),
        Residual(wide),
    ]
    return nn.Sequential(
        *stages, nn.Flatten(), nn.Dropout(0.2), nn.Linear(wide * (SIDE // 4) ** 2, classes)
    )


def student(width: int = 64, classes: int = 374) -> nn.Module:
    """Return a perceptron with one hidden layer; at width 64 it has 61,238 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, width), nn.ReLU(), nn.Linear(width, classes)
    )
