"""The CIFAR networks of the DIST paper's tables, for images of 32x32 pixels: `cifar_models:resnet`
and `cifar_models:wrn`.

    cifar_models:resnet,depth=56              cifar_models:wrn,depth=40,width=2
    cifar_models:resnet,depth=8,width=4       (the paper's resnet8x4)

kdcache finds them when this folder is the working directory or on PYTHONPATH. A function takes the
options of its spec and returns a torch.nn.Module from normalised images to class logits.
`channels=1` is for grey images.
"""

import torch
from torch import Tensor, nn

STRIDES = (1, 2, 2)
"""Of the three stages, at 32, 16 and 8 pixels."""


class PostActivation(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition, CVPR 2016: the ReLU comes after the
    sum."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        first = convolution(inside, outside, stride)
        second = convolution(outside, outside, 1)
        self.branch = nn.Sequential(
            first, nn.BatchNorm2d(outside), nn.ReLU(), second, nn.BatchNorm2d(outside)
        )
        is_same = stride == 1 and inside == outside
        projection = nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
        )
        self.shortcut = nn.Identity() if is_same else projection

    def forward(self, features: Tensor) -> Tensor:
        """Return features of `outside` channels."""
        return torch.relu(self.branch(features) + self.shortcut(features))


class PreActivation(nn.Module):
    """Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016: norms and ReLUs come before the
    convolutions."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        first = convolution(inside, outside, stride)
        second = convolution(outside, outside, 1)
        self.branch = nn.Sequential(first, nn.BatchNorm2d(outside), nn.ReLU(), second)
        is_same = stride == 1 and inside == outside
        self.shortcut = None if is_same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of `outside` channels."""
        active = self.before(features)
        return self.branch(active) + (features if self.shortcut is None else self.shortcut(active))


def convolution(inside: int, outside: int, stride: int) -> nn.Module:
    """Return a 3x3 convolution."""
    return nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)


def resnet(depth: int = 20, width: int = 1, classes: int = 100, channels: int = 3) -> nn.Module:
    """Return a ResNet of `depth` = 6n + 2 layers and `width` times 16, 32 and 64 channels; wide
    ones begin with 32."""
    stem = 16 if width == 1 else 32
    blocks = stages(PostActivation, stem, 16 * width, count("resnet", depth, 2))
    return finished(
        [convolution(channels, stem, 1), nn.BatchNorm2d(stem), nn.ReLU(), *blocks],
        [],
        64 * width,
        classes,
    )


def wrn(depth: int = 40, width: int = 2, classes: int = 100, channels: int = 3) -> nn.Module:
    """Return a wide ResNet of `depth` = 6n + 4 layers and `width` times 16, 32 and 64 channels."""
    blocks = stages(PreActivation, 16, 16 * width, count("wrn", depth, 4))
    last = [nn.BatchNorm2d(64 * width), nn.ReLU()]
    return finished([convolution(channels, 16, 1), *blocks], last, 64 * width, classes)


def stages(block: type[nn.Module], inside: int, width: int, num_blocks: int) -> list[nn.Module]:
    """Return the blocks of three stages of `width`, twice and four times as many channels."""
    made: list[nn.Module] = []
    for stage, stride in enumerate(STRIDES):
        outside = width * 2**stage
        made.append(block(inside, outside, stride))
        made += [block(outside, outside, 1) for _ in range(num_blocks - 1)]
        inside = outside
    return made


def finished(
    trunk: list[nn.Module], last: list[nn.Module], features: int, classes: int
) -> nn.Module:
    """Return the network with its pooling and head, its convolutions drawn as He et al. do."""
    network = nn.Sequential(
        *trunk, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def count(name: str, depth: int, rest: int) -> int:
    """Return the blocks of a stage of a network of that depth."""
    if depth <= rest or (depth - rest) % 6:
        raise ValueError(
            f"{name} of depth {depth}: the depth must be 6n + {rest}, such as {6 + rest} or"
            f" {18 + rest}"
        )
    return (depth - rest) // 6
