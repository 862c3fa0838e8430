"""A class index for each pixel of an image: an image of mode L, with 255 where no class is."""

import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from kdcache.deferred import Tensor, functional, torch, tv_tensors
from kdcache.errors import SourceError
from kdcache.runtime.image_items import described
from kdcache.runtime.images import load_image, open_image, pixel_bytes
from kdcache.shapes import IGNORED, Labels
from kdcache.targets.protocol import MixedTarget, StoredTarget

_PNG_LEVEL = 6


class ClassMask:
    """The target of segmentation."""

    task: ClassVar[str] = "segmentation"
    suffix: ClassVar[str] = "mask.png"
    plural: ClassVar[str] = "masks"
    follows_views: ClassVar[bool] = True
    layouts: ClassVar[frozenset[str]] = frozenset({"heads"})
    eval_recipe: ClassVar[str] = "segmentation-eval"
    is_small: ClassVar[bool] = False

    def checked(self, target: Any, image: Image.Image, classes: int, name: str) -> Image.Image:
        """Return the mask that a user's code gave.

        Raises:
            SourceError: no image of mode L, one of another size, or with a class that there is not.
        """
        is_mask = isinstance(target, Image.Image) and target.mode == "L"
        if not is_mask or target.size != image.size:
            raise SourceError(
                f"{name} has target {described(target)}; it must be an image of mode L as large as"
                " its own"
            )
        _check_classes(target, classes, name)
        mask: Image.Image = target
        return mask

    def encode(self, target: StoredTarget) -> bytes:
        """Return a mask as a PNG of 8-bit grey levels; equal masks are equal bytes, with one
        release of Pillow."""
        out = io.BytesIO()
        # without what the mask's file said besides
        pixels = Image.fromarray(np.asarray(target, np.uint8))
        pixels.save(out, "PNG", compress_level=_PNG_LEVEL)
        return out.getvalue()

    def identity(self, target: StoredTarget) -> bytes:
        """Return the text `L WIDTHxHEIGHT ` and the pixels, row by row."""
        assert isinstance(target, Image.Image)
        return pixel_bytes(target)

    def check_stored(self, data: bytes) -> None:
        """Check nothing: a mask is looked at when it is decoded."""

    def decode(self, data: bytes, image: Image.Image, classes: int, name: str) -> Image.Image:
        """Return the mask in a file; one of another size than its image is refused before it is
        decoded.

        Raises:
            OSError: (or another of decoding) it cannot be decoded.
            SourceError: a mask of another size or mode, or with a class that there is not.
        """
        mask = open_image(data, formats=["PNG"])
        check_size(mask.size, image.size, name)
        if mask.mode != "L":
            raise SourceError(
                f"{name} has a mask of mode {mask.mode}; a stored mask holds 8-bit grey levels (L),"
                " the classes"
            )
        _check_classes(load_image(mask), classes, name)
        return mask

    def follower(self, target: StoredTarget, image: Image.Image) -> "tv_tensors.Mask":
        """Return the mask as a tensor that moves as its image does."""
        from kdcache.targets.mask_resize import Mask  # noqa: PLC0415 # a class of torchvision's

        assert isinstance(target, Image.Image)
        return Mask(functional.pil_to_tensor(target))

    def size_of(self, moved: Any) -> list[int]:
        """Return the height and width of a mask that has moved."""
        return [*moved.shape[1:]]

    def followed(self, target: StoredTarget, moved: Any, image: Image.Image) -> Tensor:
        """Return the mask of a view, uint8 `[height, width]`."""
        mask: Tensor = moved.as_subclass(torch.Tensor)[0]
        return mask

    def batch(self, targets: Sequence[MixedTarget], size: Sequence[int], *, mixes: bool) -> Labels:
        """Return the masks of views of `size`, uint8 `[views, height, width]`; of views whose image
        could not be read 255."""
        masks = torch.full((len(targets), *size), IGNORED, dtype=torch.uint8)
        for position, (mask, _, _) in enumerate(targets):
            if isinstance(mask, Tensor):
                masks[position] = mask
        return Labels(masks)


def check_size(mask: tuple[int, int], image: tuple[int, int], name: str) -> None:
    """Check that a mask has the size of its image; both are (width, height).

    Raises:
        SourceError: it has another.
    """
    if mask != image:
        raise SourceError(
            f"{name} has a mask of {mask[0]}x{mask[1]} pixels and an image of"
            f" {image[0]}x{image[1]}; both must be of one size: mend the pair, or leave it out of"
            " the source"
        )


def _check_classes(mask: Image.Image, classes: int, name: str) -> None:
    pixels = np.asarray(mask)
    is_wrong = (pixels >= classes) & (pixels != IGNORED)
    wrong_classes = np.unique(pixels[is_wrong])
    if len(wrong_classes):
        first_classes = ", ".join(map(str, wrong_classes[:5]))
        raise SourceError(
            f"{name} has a mask with class {first_classes}; known are 0 to {classes - 1}, and"
            f" {IGNORED} for none"
        )
