"""Heads that make a map of class logits of a backbone's last map, as DeepLabV3 and PSPNet do."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

_ATROUS_RATES = (12, 24, 36)
_GRIDS = (1, 2, 3, 6)
_MOST_CHANNELS = 256


def plain_head(features: int, classes: int) -> nn.Module:
    """Return one 3x3 and one 1x1 convolution, with a quarter of the channels between them."""
    head: nn.Module = FCNHead(features, classes)
    return head


def deeplabv3_head(features: int, classes: int) -> nn.Module:
    """Return DeepLabV3's head (Chen et al., Rethinking Atrous Convolution, 2017) for a map of
    stride 8, as slim as CIRKD (Yang et al., CVPR 2022) and DIST have it: a quarter of the channels,
    256 at most."""
    width = _width(features)
    return nn.Sequential(ASPP(features, _ATROUS_RATES, width), *_last_layers(width, width, classes))


def pspnet_head(features: int, classes: int) -> nn.Module:
    """Return PSPNet's head (Zhao et al., CVPR 2017), as slim as that of DeepLabV3."""
    return nn.Sequential(
        PyramidPooling(features), *_last_layers(2 * features, _width(features), classes)
    )


MAP_HEADS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "fcn": plain_head,
    "deeplabv3": deeplabv3_head,
    "pspnet": pspnet_head,
}
"""By the name of a decoder."""


def _width(features: int) -> int:
    return min(features // 4, _MOST_CHANNELS)


def _last_layers(inside: int, width: int, classes: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inside, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(width, classes, 1),
    ]


class PyramidPooling(nn.Module):
    """Puts beside a map its means over grids of 1, 2, 3 and 6 cells a side, each with a quarter of
    the channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        width = features // len(_GRIDS)
        branches = []
        for cells in _GRIDS:
            branch = nn.Sequential(
                nn.AdaptiveAvgPool2d(cells),
                nn.Conv2d(features, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            branches.append(branch)
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """Return `[views, channels, height, width]` as twice as many channels."""
        size = features.shape[2:]
        maps = [features]
        for branch in self.branches:
            means = branch(features)
            # the cells at the edge reach to the edge, as in the authors' code
            maps.append(functional.interpolate(means, size, mode="bilinear", align_corners=True))
        return torch.cat(maps, dim=1)
