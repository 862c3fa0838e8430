"""timm's operations on images, and what they take: a colour, an interpolation, few bits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode

from kdcache.views.drawn_policy import DrawnOperation

_SHIFTING = ("nearest", "bilinear", "bicubic")
"""Interpolations that Pillow has for shifting and turning an image."""


def fill_colour(colour: Sequence[int], image_mode: str) -> int | tuple[int, ...]:
    """Return the colour of what comes in from outside, as Pillow takes it.

    Args:
        colour: levels of red, green and blue, or of grey.
        image_mode: of the images, RGB or L.

    Raises:
        ValueError: no such levels.
    """
    if len(colour) not in (3, len(image_mode)) or not all(level in range(256) for level in colour):
        raise ValueError(
            f"fill is {colour!r}; it must be a list of three levels from 0 to 255, of red, green"
            " and blue"
        )
    if image_mode == "RGB":
        return tuple(colour)
    return colour[0]


def resampling(interpolation: InterpolationMode) -> Image.Resampling:
    """Return Pillow's name of an interpolation that can shift an image.

    Raises:
        ValueError: it cannot.
    """
    if interpolation.value not in _SHIFTING:
        raise ValueError(
            f"interpolation {interpolation.value!r} cannot shift an image; known:"
            f" {', '.join(_SHIFTING)}"
        )
    return Image.Resampling[interpolation.name]


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Return the image with fewer bits, black if there are none: what v0 and magnitude 10 ask for
    and new Pillows refuse."""
    if bits >= 8:
        return image
    if bits <= 0:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits)


def apply_operation(
    image: Image.Image, operation: DrawnOperation, options: Mapping[str, Any]
) -> Image.Image:
    """Return what an operation of timm's makes of an image.

    Args:
        image: RGB or L.
        operation: with its value.
        options: Pillow's `fillcolor` and `resample`.
    """
    from timm.data.auto_augment import NAME_TO_OP  # noqa: PLC0415

    apply: Callable[..., Image.Image] = NAME_TO_OP[operation.name]
    if operation.name == "Posterize":
        apply = posterize
    if operation.value is None:
        return apply(image, **options)
    return apply(image, operation.value, **options)
