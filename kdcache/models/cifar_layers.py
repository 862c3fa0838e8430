"""What the networks of CIFAR-100 and their blocks are made of: layers, several in a row, and how
their weights are drawn."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn


def convolution(
    inside: int, outside: int, side: int, stride: int = 1, *, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size, but for its stride."""
    return nn.Conv2d(inside, outside, side, stride, side // 2, groups=groups, bias=False)


def shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    """Return what brings a block's input to the shape of its output."""
    if stride == 1 and inside == outside:
        return nn.Sequential()
    return nn.Sequential(convolution(inside, outside, 1, stride), nn.BatchNorm2d(outside))


def shuffled(features: Tensor, groups: int) -> Tensor:
    """Return channels in another order, the first of each group first."""
    views, channels, height, width = features.shape
    grouped = features.reshape(views, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).flatten(1, 2)


def chain(**parts: nn.Module) -> nn.Sequential:
    """Return modules one after the other, whose states have these names."""
    return nn.Sequential(OrderedDict(parts))


def stage(
    block: Callable[[int, int, int], nn.Module],
    inside: int,
    outside: int,
    num_blocks: int,
    *,
    stride: int,
) -> nn.Module:
    """Return blocks one after the other; the first has the stride."""
    blocks = [block(inside, outside, stride)]
    blocks += [block(outside, outside, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


def small_linear(inside: int, outside: int) -> nn.Linear:
    """Return a linear layer whose weights are drawn with a standard deviation of 0.01; its bias is
    0."""
    layer = nn.Linear(inside, outside)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def draw_convolutions(network: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. do (Delving Deep into Rectifiers, ICCV 2015),
    by the number of outputs; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
