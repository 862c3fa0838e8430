"""A mask as torchvision's transforms see it: it goes where its image goes, each pixel that of the
nearest place.

torchvision resizes masks by the pixel at the corner, which is half a pixel off the image that they
go with; here Pillow does it, as it does the image, by the pixel at the centre. All else is
torchvision's.
"""

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


class Mask(tv_tensors.Mask):  # type: ignore[misc]
    """Class indices of the pixels of an image, uint8 `[1, height, width]`."""


@functional.register_kernel(functional.resize, Mask)  # type: ignore[untyped-decorator]
def _resize(mask: Mask, size: Any, *, max_size: int | None = None, **_: Any) -> Mask:
    image = functional.to_pil_image(mask)
    resized = functional.resize(
        image, size, max_size=max_size, interpolation=InterpolationMode.NEAREST
    )
    return Mask(functional.pil_to_tensor(resized))


@functional.register_kernel(functional.resized_crop, Mask)  # type: ignore[untyped-decorator]
def _resized_crop(
    mask: Mask, *, top: int, left: int, height: int, width: int, size: Any, **_: Any
) -> Mask:
    resized: Mask = _resize(functional.crop(mask, top, left, height, width), size)
    return resized
