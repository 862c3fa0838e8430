"""A mask as torchvision's transforms see it: it goes where its image goes, each pixel that of the nearest place.

torchvision resizes masks by the pixel at the corner, which is half a pixel off the image that they go with; here it is the one
at the centre. All else is torchvision's.
"""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


class Mask(tv_tensors.Mask):
    """Class indices of the pixels of an image, uint8 `[1, height, width]`."""


@functional.register_kernel(functional.resize, Mask)  # type: ignore[untyped-decorator]
def _resize(mask: Mask, size: Any, *, max_size: int | None = None, **_: Any) -> Mask:
    plain = mask.as_subclass(torch.Tensor)
    return Mask(functional.resize(plain, size, max_size=max_size, interpolation=InterpolationMode.NEAREST_EXACT))


@functional.register_kernel(functional.resized_crop, Mask)  # type: ignore[untyped-decorator]
def _resized_crop(mask: Mask, *, top: int, left: int, height: int, width: int, size: Any, **_: Any) -> Mask:
    return _resize(functional.crop(mask, top, left, height, width), size)
