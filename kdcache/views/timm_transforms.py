"""timm's augmentation policies and random erasing, as transforms of a recipe.

[[transforms]]
name = "timm.AutoAugment"
policy = "rand-m9-mstd0.5-inc1"      # timm's --aa: rand-..., augmix-..., v0, v0r, original,
originalr or 3a

[[transforms]]
name = "timm.RandomErasing"
probability = 0.25
mode = "pixel"                       # or const or rand
"""

import re
from collections.abc import Iterator
from math import inf
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from kdcache.shapes import View
from kdcache.views.erased_blocks import IMAGENET_MEAN, IMAGENET_STD, erased_view, levels
from kdcache.views.timm_operations import fill_colour, posterize, resampling

_FILL = [round(255 * value) for value in IMAGENET_MEAN]
_NUMBER = r"\d+(\.\d+)?"
_POLICY = re.compile(  # timm itself passes over a section that it does not know
    rf"rand(-((m|n|mmax|inc)\d+|(p|mstd){_NUMBER}|t(weights|3aw?)))*"
    rf"|augmix(-((m|w|d|b)\d+|(a|mstd){_NUMBER}))*"
    rf"|(v0r?|originalr?|3a)(-mstd{_NUMBER})?"
)


class AutoAugment:
    """RandAugment, AugMix and AutoAugment as timm spells and does them.

    Args:
        policy: the text of timm's `--aa`.
        image_mode: of the images, RGB or L; the recipe's.
        image_size: of the view, which bounds how far images are shifted; the recipe's.
        fill: colour, 0 to 255, of what comes in from outside; by default ImageNet's mean, as in
            timm.
        interpolation: by default bilinear or bicubic, drawn each time, as in timm.
    """

    def __init__(
        self,
        policy: str,
        *,
        image_mode: str,
        image_size: int,
        fill: list[int] | None = None,
        interpolation: InterpolationMode | None = None,
    ) -> None:
        from timm.data.auto_augment import (  # noqa: PLC0415
            augment_and_mix_transform,
            auto_augment_transform,
            rand_augment_transform,
        )

        if not _POLICY.fullmatch(policy):
            raise ValueError(
                f"policy {policy!r} is not one of timm's; write rand, augmix, v0, v0r, original,"
                " originalr or 3a, with what belongs to it, for example rand-m9-mstd0.5-inc1"
            )
        hints: dict[str, Any] = {
            "translate_const": int(image_size * 0.45),
            "img_mean": fill_colour(_FILL if fill is None else fill, image_mode),
        }
        if interpolation is not None:
            hints["interpolation"] = resampling(interpolation)
        kind = policy.partition("-")[0]
        if kind == "augmix":
            hints["translate_pct"] = 0.3
        makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
        self._transform = makers.get(kind, auto_augment_transform)(policy, hints)
        for operation in _operations(self._transform):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the augmented image, drawn from the generators of `random` and numpy."""
        augmented: Image.Image = self._transform(image)
        return augmented


def _operations(transform: Any) -> Iterator[Any]:
    """Yield timm's single operations, of which a policy is made."""
    if hasattr(transform, "ops"):
        yield from transform.ops
    else:
        for operations in transform.policy:
            yield from operations


class RandomErasing:
    """Random erasing (Zhong et al., AAAI 2020) as timm does it, on the CPU.

    timm erases in normalised pixels. Here blocks are brought to 8 bits with `pixel_mean` and
    `pixel_std`, so that noise is cut off at black and white. They are drawn on a canvas of a fixed
    size, so that views of any size have the same ones.

    Args:
        probability: how often an image is erased at all.
        mode: `const` (the mean), `rand` (one colour) or `pixel` (noise).
        min_area: smallest share of the image, all blocks together.
        max_area: largest.
        min_aspect: lowest ratio of height to width; the highest is its inverse.
        min_count: fewest blocks.
        max_count: most blocks; by default as many.
        pixel_mean: of pixels from 0 to 1.
        pixel_std: likewise.
        canvas: side of the canvas in pixels; views of this size are as timm makes them.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        mode: Literal["const", "rand", "pixel"] = "const",
        min_area: float = 0.02,
        max_area: float = 1 / 3,
        min_aspect: float = 0.3,
        min_count: int = 1,
        max_count: int | None = None,
        pixel_mean: list[float] | None = None,
        pixel_std: list[float] | None = None,
        canvas: int = 224,
    ) -> None:
        from timm.data.random_erasing import RandomErasing as Erasing  # noqa: PLC0415

        if mode not in ("const", "rand", "pixel"):
            raise ValueError(f"mode {mode!r} is not const, rand or pixel")
        _require_ordered(
            probability=(0, probability, 1),
            min_area=(0, min_area, max_area),
            max_area=(min_area, max_area, 1),
        )
        _require_ordered(
            min_aspect=(0.001, min_aspect, 1),
            min_count=(1, min_count, inf),
            canvas=(1, canvas, inf),
        )
        most_blocks = min_count if max_count is None else max_count
        _require_ordered(max_count=(min_count, most_blocks, inf))
        self._erase = Erasing(
            probability,
            min_area,
            max_area,
            min_aspect,
            None,
            mode,
            min_count,
            max_count,
            device="cpu",
        )
        self._mean = levels("pixel_mean", pixel_mean or IMAGENET_MEAN)
        self._std = levels("pixel_std", pixel_std or IMAGENET_STD)
        self._canvas = canvas

    def __call__(self, image: Image.Image | Tensor) -> View:
        """Return the view with blocks erased, drawn from torch's generator and that of `random`."""
        view = image
        if isinstance(view, Image.Image):
            view = v2.functional.pil_to_tensor(view)
        canvas = torch.full((len(view), self._canvas, self._canvas), torch.nan)
        erased: Tensor = self._erase(canvas)
        return erased_view(view, erased, mean=self._mean, std=self._std)


def _require_ordered(**values: tuple[float, float, float]) -> None:
    for name, (low, value, high) in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be from {low} to {high}")


TIMM_TRANSFORMS: dict[str, Any] = {
    "timm.AutoAugment": AutoAugment,
    "timm.RandomErasing": RandomErasing,
}
