"""What a model wants of a view: its size in pixels, and how its pixels are normalised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.errors import UsageError
from kdcache.shapes import Size, as_size, sides
from kdcache.views import Recipe

PREPROCESSING = ("mean", "std", "input_size")
"""The options of a model's spec that say so."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants of a view: `size` in pixels, and `mean` and `std` per channel of pixels
    scaled to 0 to 1."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]


def chosen_preprocessing(wishes: Mapping[str, Any], recipe: Recipe, text: str) -> Preprocessing:
    """Return the preprocessing that a model gets.

    Args:
        wishes: `mean`, `std` and `input_size`, as far as the spec or the model says them; a mean or
            std of None must be given.
        recipe: gives the channels, and the input size of models that take any.
        text: the model's spec, for messages.

    Raises:
        UsageError: mean and std are not given, or one of the three cannot be used.
    """
    size = wishes.get("input_size")
    mean = wishes.get("mean", _IMAGENET[0])
    std = wishes.get("std", _IMAGENET[1])
    if mean is None or std is None:
        raise UsageError(
            f"model {text!r} does not say how images are to be normalised; add mean=... and"
            " std=..., of pixels from 0 to 1"
        )
    try:
        found = Preprocessing(
            size=_size(recipe.input_size if size is None else size),
            mean=per_channel(mean, recipe.channels),
            std=per_channel(std, recipe.channels),
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"model {text!r}: mean, std and input_size must be numbers ({error})"
        ) from error
    if min(found.std) <= 0:
        raise UsageError(f"model {text!r}: std is {std}; it must be above 0, of pixels from 0 to 1")
    if min(sides(found.size)) < 1:
        raise UsageError(f"model {text!r}: input_size is {size}; it must be at least 1 pixel")
    return found


def per_channel(values: Any, channels: int) -> tuple[float, ...]:
    """Return one number for each channel; of grey images the mean of those for colours."""
    numbers = [
        float(value) for value in (values if isinstance(values, (tuple, list)) else [values])
    ]
    if len(numbers) == channels:
        return tuple(numbers)
    return (sum(numbers) / len(numbers),) * channels  # colour statistics on grey images


def _size(value: Any) -> Size:
    """Return a size given as a number, as `512x1024`, or as it is."""
    if isinstance(value, str):
        height, width = (int(part) for part in value.split("x"))
        return as_size((height, width))
    if isinstance(value, float):
        raise ValueError(f"{value} is no whole number of pixels")
    return value if isinstance(value, tuple) else int(value)
