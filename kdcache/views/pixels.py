"""The pixels of a view, between the steps of a recipe and after the last one."""

import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdcache.errors import RecipeError, quoted
from kdcache.shapes import View

Pixels = Image.Image | torch.Tensor


def as_view(pixels: Any, channels: int, shape: tuple[int, int] | None, recipe: str) -> View:
    """Return what the last step of a recipe gives as a view, uint8 `[channels, height, width]`.

    Args:
        pixels: that it gives.
        channels: of the view.
        shape: its height and width; None where it may have any.
        recipe: how messages name the recipe.

    Raises:
        RecipeError: it is no such view.
    """
    if isinstance(pixels, Image.Image):
        pixels = _tensor(pixels)
    if not isinstance(pixels, torch.Tensor):
        raise RecipeError(
            f"{recipe} gives {quoted(type(pixels))}, not an image; leave out what gives several"
        )
    height, width = shape or pixels.shape[-2:]
    declared = (channels, height, width)
    if pixels.dtype != torch.uint8 or tuple(pixels.shape) != declared:
        raise RecipeError(
            f"{recipe} gives {pixels.dtype} {tuple(pixels.shape)} where uint8 {declared} is"
            " declared; end it with a Resize, a crop or kdcache.Letterbox"
            ' to size = "input"'
        )
    view: View = pixels
    if type(pixels) is not torch.Tensor:
        view = pixels.as_subclass(torch.Tensor)
    return view


def _tensor(image: Image.Image) -> torch.Tensor:
    """Return the pixels of an image, `[channels, height, width]`, in half the time that
    torchvision's `pil_to_tensor` takes for a small one."""
    pixels = np.array(image)
    if pixels.ndim == 2:
        return torch.from_numpy(pixels[None])
    return torch.from_numpy(pixels.transpose(2, 0, 1))


def crc32(pixels: Pixels) -> int:
    """Return the CRC-32 of an image's mode, size and bytes, or of a tensor's bytes alone."""
    if isinstance(pixels, Image.Image):
        heading = f"{pixels.mode} {pixels.width}x{pixels.height} "
        return zlib.crc32(pixels.tobytes(), zlib.crc32(heading.encode()))
    return zlib.crc32(pixels.contiguous().numpy().data)
