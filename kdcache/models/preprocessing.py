"""What a model wants of a view: its size in pixels, and how its pixels are normalised."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import kdcache.views
from kdcache.errors import UsageError, quoted
from kdcache.shapes import Size, as_size

PREPROCESSING = ("mean", "std", "input_size")
"""The options of a model's spec that say so."""

_COLOURS = 3
_MOST = 4.0
"""Of a mean or std; those of pixels from 0 to 1 are below 1."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants of a view: `size` in pixels, and `mean` and `std` per channel of pixels
    scaled to 0 to 1."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GivenPreprocessing:
    """What a program says of a module's preprocessing; None where it says nothing."""

    size: Size | None = None
    """Height and width of the views, or one number for both."""
    mean: float | Sequence[float] | None = None
    """Of pixels scaled to 0 to 1, one number or one a channel."""
    std: float | Sequence[float] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing at all."""
        return self.size is None and self.mean is None and self.std is None


NOTHING_GIVEN = GivenPreprocessing()


def chosen_preprocessing(
    wishes: Mapping[str, Any], recipe: "kdcache.views.Recipe", text: str
) -> Preprocessing:
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
    if size is None:
        size = recipe.input_size
    try:
        return Preprocessing(checked_size(size), *normalisation(mean, std, recipe.channels))
    except ValueError as error:
        raise UsageError(f"model {text!r}: {error}") from error


def normalisation(mean: Any, std: Any, channels: int) -> tuple[tuple[float, ...], ...]:
    """Return mean and std with a number for each channel.

    Args:
        mean: of pixels from 0 to 1: one number for all channels, or one a channel. Of grey images
            the three for colours serve too: they get their mean.
        std: as `mean`.
        channels: of the views.

    Raises:
        ValueError: not so many numbers, one that is not finite, or a std that is not above 0.
    """
    means = _per_channel("mean", mean, channels)
    stds = _per_channel("std", std, channels)
    if min(stds) <= 0:
        raise ValueError(f"std is {std}; it must be above 0, of pixels from 0 to 1")
    return means, stds


def checked_size(value: Any) -> Size:
    """Return the size that is given as a number of pixels, as height and width, or as `512x1024`.

    Raises:
        ValueError: anything else, or less than a pixel.
    """
    parts: Sequence[Any]
    if isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, str):
        parts = value.split("x")
    else:
        parts = [value]
    try:
        numbers = [_whole_number(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or isinstance(value, bool):
        raise ValueError(
            f"input_size is {quoted(value)}; it must be a whole number of pixels, or height and"
            " width"
        )
    if min(numbers) < 1:
        raise ValueError(f"input_size is {quoted(value)}; it must be at least 1 pixel")
    return as_size((numbers[0], numbers[-1]))


def _whole_number(part: Any) -> int:
    if isinstance(part, str):
        return int(part)
    return index(part)


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...]:
    numbers = _numbers(values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is {quoted(values)}; it must be of finite numbers")
    if max(map(abs, numbers), default=0) > _MOST:
        raise ValueError(
            f"{name} is {quoted(values)}; it is of pixels from 0 to 1: divide what is of 0 to 255"
            " by 255"
        )
    if len(numbers) == channels:
        return tuple(numbers)
    if len(numbers) == 1 or (len(numbers) == _COLOURS and channels == 1):
        return (sum(numbers) / len(numbers),) * channels
    raise ValueError(
        f"{name} is {quoted(values)}, {len(numbers)} numbers, and the views have {channels}"
        " channels; give one number, or one a channel"
    )


def _numbers(values: Any) -> list[float]:
    """Return one number or several as a list; NaN alone if there is anything else among them."""
    if not isinstance(values, tuple | list):
        values = [values]
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return [math.nan]
