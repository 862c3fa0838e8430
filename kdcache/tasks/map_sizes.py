"""Maps and masks brought to each other's size."""

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.shapes import Maps, Masks, SmallMasks


def upsampled(maps: Maps, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Return maps brought to `size`, `[views, classes, height, width]`, bilinear between the
    centres of pixels.

    Args:
        maps: of class logits.
        size: height and width.
        align_corners: whether the centres of the pixels in the corners lie on each other, as in
            older code; by default the edges of the maps do.
    """
    planes = maps.permute(0, 3, 1, 2)
    if planes.shape[2:] == size:
        return planes
    # cross-entropy would copy large planes that lie pixel by pixel; here they are small
    planes = planes.contiguous()
    return functional.interpolate(planes, size, mode="bilinear", align_corners=align_corners)


def masks_at(masks: Masks, size: tuple[int, int]) -> SmallMasks:
    """Return the class in the middle of each pixel of a map of `size`."""
    planes = masks[:, None].float()
    small = functional.interpolate(planes, size, mode="nearest-exact")
    return small[:, 0].to(torch.uint8)
