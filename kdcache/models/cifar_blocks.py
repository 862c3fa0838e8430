"""Blocks of the networks of CIFAR-100, from features `[views, inside, height, width]` to `[views,
outside, ...]`. Their states have the names of the published files."""

import torch
from torch import Tensor, nn

from kdcache.models.cifar_layers import convolution, shortcut, shuffled


class BasicBlock(nn.Module):
    """Two convolutions; the second ReLU comes after the sum."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inside, outside, 3, stride)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = convolution(outside, outside, 3)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = shortcut(inside, outside, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        inner = torch.relu(self.bn1(self.conv1(features)))
        inner = self.bn2(self.conv2(inner))
        return torch.relu(inner + self.downsample(features))


class Bottleneck(nn.Module):
    """A convolution of a quarter of the channels between two of 1x1."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        middle = outside // 4
        self.conv1 = convolution(inside, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = convolution(middle, middle, 3, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = convolution(middle, outside, 1)
        self.bn3 = nn.BatchNorm2d(outside)
        self.shortcut = shortcut(inside, outside, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        inner = torch.relu(self.bn1(self.conv1(features)))
        inner = torch.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return torch.relu(inner + self.shortcut(features))


class WideBlock(nn.Module):
    """Norms and ReLUs come before the convolutions, and before the shortcut where that has one."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = convolution(inside, outside, 3, stride)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = convolution(outside, outside, 3)
        self.convShortcut = None  # as the published files call it
        if inside != outside:
            self.convShortcut = convolution(inside, outside, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        active = torch.relu(self.bn1(features))
        inner = torch.relu(self.bn2(self.conv1(active)))
        inner = self.conv2(inner)
        passing = features
        if self.convShortcut is not None:
            passing = self.convShortcut(active)
        output: Tensor = inner + passing
        return output


class InvertedResidual(nn.Module):
    """A convolution of each channel by itself, between one that widens and one that narrows."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.conv = nn.Sequential(
            convolution(inside, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            convolution(middle, middle, 3, stride, groups=middle),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            convolution(middle, outside, 1),
            nn.BatchNorm2d(outside),
        )
        self.is_residual = stride == 1 and inside == outside

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        inner: Tensor = self.conv(features)
        if self.is_residual:
            return features + inner
        return inner


class GroupedBlock(nn.Module):
    """ShuffleNet's block: convolutions of 1x1 in three groups, whose channels are shuffled; with a
    stride the pooled input is put beside its output."""

    num_groups = 3

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.has_stride = stride == 2
        own = outside - inside if self.has_stride else outside
        middle = own // 4
        # the first block's input has too few channels for groups
        self.first_groups = 1 if inside == 24 else self.num_groups
        self.conv1 = convolution(inside, middle, 1, groups=self.first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = convolution(middle, middle, 3, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = convolution(middle, own, 1, groups=self.num_groups)
        self.bn3 = nn.BatchNorm2d(own)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        inner = torch.relu(self.bn1(self.conv1(features)))
        inner = shuffled(inner, self.first_groups)
        inner = torch.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        if self.has_stride:
            return torch.relu(torch.cat([inner, self.pool(features)], dim=1))
        return torch.relu(inner + features)


class SplitBlock(nn.Module):
    """ShuffleNetV2's block: one half of the channels passes, the other is convolved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = convolution(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = convolution(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        passing, inner = features.chunk(2, dim=1)
        inner = torch.relu(self.bn1(self.conv1(inner)))
        inner = self.bn2(self.conv2(inner))
        inner = torch.relu(self.bn3(self.conv3(inner)))
        return shuffled(torch.cat([passing, inner], dim=1), 2)


class HalvingBlock(nn.Module):
    """ShuffleNetV2's block of stride 2: both branches see all channels."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.conv1 = convolution(inside, inside, 3, 2, groups=inside)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = convolution(inside, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(inside, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = convolution(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = convolution(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        short = self.bn1(self.conv1(features))
        short = torch.relu(self.bn2(self.conv2(short)))
        long = torch.relu(self.bn3(self.conv3(features)))
        long = self.bn4(self.conv4(long))
        long = torch.relu(self.bn5(self.conv5(long)))
        return shuffled(torch.cat([short, long], dim=1), 2)
