"""Views of which the seed is stored, drawn again as TinyViT's program drew them, see
stored_transform.py.

One generator draws all of a view, one after the other: the crop, whether it is flipped, the
operations, and the blocks that are erased.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from kdcache.shapes import View
from kdcache.views.drawn_policy import DrawnOperation, DrawnPolicy
from kdcache.views.erased_blocks import IMAGENET_MEAN, IMAGENET_STD, erased_view, levels
from kdcache.views.numpy_draws import NumpyDraws, noise
from kdcache.views.stored_crop import Cut
from kdcache.views.stored_transform import StoredTransform
from kdcache.views.stored_views import StoredViews, ViewKey
from kdcache.views.timm_operations import apply_operation, fill_colour, resampling

_AREAS = (0.08, 1.0)
"""Of a crop, as a share of the image."""
_RATIOS = (3 / 4, 4 / 3)
"""Of its width to its height."""
_TRIES = 10
_FRAME = 224
"""The side of the square that blocks are drawn in."""
_BLOCK_AREAS = (0.02, 1 / 3)
"""Of all blocks of a view, as a share of that square."""
_BLOCK_RATIOS = (0.3, 1 / 0.3)
"""Of a block's height to its width."""
_MOST_NOISE_SEED = 1 << 30


class Rectangle(NamedTuple):
    """Whole pixels."""

    top: int
    left: int
    height: int
    width: int


class Block(NamedTuple):
    """What is erased."""

    place: Rectangle
    """In a square of `_FRAME` pixels."""
    noise_seed: int | None
    """Of its noise; None where it has none."""


class DrawnView(NamedTuple):
    """All that is drawn of a view."""

    crop: Rectangle
    """Of the image."""
    is_flipped: bool
    operations: tuple[DrawnOperation, ...]
    blocks: tuple[Block, ...]


class StoredDraw(StoredTransform):
    """Draws a view from the seed that is stored of it, and renders it.

    Args:
        size: of the view, a side or height and width.
        views: the digest of the stored views.
        image_mode: of the images, RGB or L; the recipe's.
        interpolation: of the crop, and of operations that shift an image.
        policy: `rand-...`, see `DrawnPolicy`; by default no operations.
        erase_probability: how often blocks are erased at all.
        erase_mode: `const` (the mean), `rand` (one colour) or `pixel` (noise).
        max_count: most blocks.
        pixel_mean: of pixels from 0 to 1, in which blocks are normalised.
        pixel_std: likewise.
        canvas: side of the view that noise is drawn for; others are stretched.
        stored_views: of that digest.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        views: str,
        *,
        image_mode: str,
        interpolation: InterpolationMode = InterpolationMode.BICUBIC,
        policy: str | None = None,
        erase_probability: float = 0.0,
        erase_mode: Literal["const", "rand", "pixel"] = "pixel",
        max_count: int = 1,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        canvas: int = _FRAME,
        stored_views: StoredViews | None = None,
    ) -> None:
        super().__init__(views, stored_views)
        if erase_mode not in ("const", "rand", "pixel"):
            raise ValueError(f"erase_mode {erase_mode!r} is not const, rand or pixel")
        if max_count < 1 or canvas < 1:
            raise ValueError(f"max_count {max_count} and canvas {canvas}; both are from 1 on")
        self.size = [size, size] if isinstance(size, int) else list(size)
        self._interpolation = interpolation
        self._policy = None if policy is None else DrawnPolicy(policy)
        self._erase_probability = erase_probability
        self._erase_mode = erase_mode
        self._max_count = max_count
        self._mean = levels("pixel_mean", pixel_mean)
        self._std = levels("pixel_std", pixel_std)
        colour = [min(255, round(255 * value)) for value in pixel_mean]
        self._options = {
            "fillcolor": fill_colour(colour, image_mode),
            "resample": resampling(interpolation),
        }
        self._canvas = canvas

    def forward(self, image: Image.Image, view: ViewKey | None = None) -> Image.Image | View:
        """Return the view of an image.

        Raises:
            RecipeError: it is not said which view, no seed is stored of it, or numpy draws other
                numbers than it did.
        """
        drawn = self.drawn(self._draw_seed(view), image.height, image.width)
        cut = Cut(
            box=drawn.crop,
            size=self.size,
            interpolation=self._interpolation,
            is_flipped=drawn.is_flipped,
        )
        pixels: Image.Image = cut(image)
        for operation in drawn.operations:
            pixels = apply_operation(pixels, operation, self._options)
        if not drawn.blocks:
            return pixels
        whole = v2.functional.pil_to_tensor(pixels)
        canvas = self._erased(drawn.blocks, len(whole))
        return erased_view(whole, canvas, mean=self._mean, std=self._std)

    def drawn(self, seed: int, height: int, width: int) -> DrawnView:
        """Return what a seed draws for an image of so many pixels."""
        draws = NumpyDraws(seed)
        return DrawnView(
            crop=_drawn_crop(draws, height, width),
            is_flipped=draws.share() < 0.5,
            operations=() if self._policy is None else self._policy.drawn(draws),
            blocks=self._drawn_blocks(draws),
        )

    def _drawn_blocks(self, draws: NumpyDraws) -> tuple[Block, ...]:
        if not self._erase_probability or draws.share() > self._erase_probability:
            return ()
        count = 1
        if self._max_count > 1:
            count = draws.whole(1, self._max_count)
        blocks: list[Block] = []
        for _ in range(count):
            place = _drawn_place(draws, count)
            if place is not None:
                noise_seed = None
                if self._erase_mode != "const":
                    noise_seed = draws.whole(0, _MOST_NOISE_SEED)
                blocks.append(Block(place, noise_seed))
        return tuple(blocks)

    def _erased(self, blocks: Sequence[Block], num_channels: int) -> Tensor:
        """Return blocks in normalised pixels, and NaN between them, float32 `[channels, canvas,
        canvas]`."""
        canvas = torch.full((num_channels, self._canvas, self._canvas), torch.nan)
        for block in blocks:
            top, left, height, width = _scaled(block.place, self._canvas)
            content = torch.zeros(num_channels, 1, 1)
            if block.noise_seed is not None:
                sides = (height, width) if self._erase_mode == "pixel" else (1, 1)
                pixels = noise(block.noise_seed, (num_channels, *sides))
                content = torch.from_numpy(pixels).float()
            canvas[:, top : top + height, left : left + width] = content
        return canvas


def _drawn_crop(draws: NumpyDraws, height: int, width: int) -> Rectangle:
    """Return a crop of random area and ratio, or, where none fits, the largest in the middle."""
    for _ in range(_TRIES):
        area = draws.between(*_AREAS) * (width * height)
        ratio = math.exp(draws.between(*map(math.log, _RATIOS)))
        wide = round(math.sqrt(area * ratio))
        high = round(math.sqrt(area / ratio))
        if wide <= width and high <= height:
            top = draws.whole(0, height - high)
            left = draws.whole(0, width - wide)
            return Rectangle(top, left, high, wide)
    least, most = _RATIOS
    high, wide = height, width
    if width / height < least:
        high = round(width / least)
    elif width / height > most:
        wide = round(height * most)
    return Rectangle((height - high) // 2, (width - wide) // 2, high, wide)


def _drawn_place(draws: NumpyDraws, count: int) -> Rectangle | None:
    """Return where one of `count` blocks lies; None where none fits."""
    for _ in range(_TRIES):
        area = draws.between(*_BLOCK_AREAS) * _FRAME**2 / count
        ratio = math.exp(draws.between(*map(math.log, _BLOCK_RATIOS)))
        high = round(math.sqrt(area * ratio))
        wide = round(math.sqrt(area / ratio))
        if wide < _FRAME and high < _FRAME:
            top = draws.whole(0, _FRAME - high)
            left = draws.whole(0, _FRAME - wide)
            return Rectangle(top, left, high, wide)
    return None


def _scaled(place: Rectangle, side: int) -> Rectangle:
    """Return a rectangle of the frame in a square of another side."""
    top = min(round(place.top * side / _FRAME), side - 1)
    left = min(round(place.left * side / _FRAME), side - 1)
    high = min(round(place.height * side / _FRAME), side - top)
    wide = min(round(place.width * side / _FRAME), side - left)
    return Rectangle(top, left, high, wide)
