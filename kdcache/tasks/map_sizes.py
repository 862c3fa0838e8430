"""Maps and masks brought to each other's size."""

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.shapes import Maps, Masks, SmallMasks


def upsampled(maps: Maps, size: tuple[int, int]) -> Tensor:
    """Return maps brought to `size`, bilinear between the centres of pixels, `[views, classes,
    height, width]`."""
    planes = maps.permute(0, 3, 1, 2)
    if planes.shape[2:] == size:
        return planes
    return functional.interpolate(planes, size, mode="bilinear", align_corners=False)


def masks_at(masks: Masks, size: tuple[int, int]) -> SmallMasks:
    """Return the class in the middle of each pixel of a map of `size`."""
    planes = masks[:, None].float()
    small = functional.interpolate(planes, size, mode="nearest-exact")
    return small[:, 0].to(torch.uint8)
