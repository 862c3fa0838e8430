"""What a recipe may ask for. It may come from a cache of someone else; what is refused there is a
mistake in one's own, too.

What can be told from a recipe alone is told when it is read: how many transforms, how deep, which
numbers. How large an image becomes depends on the image, too: that is told just before the
transform runs.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional

from kdcache.errors import RecipeError, brief, quoted
from kdcache.shapes import MOST_PIXELS, MOST_SIDE

MOST_TRANSFORMS = 64
"""Of a recipe, those inside of others counted."""
MOST_DEPTH = 4
"""Transforms inside of transforms, and lists inside of lists."""
MOST_BLOCK = 1 << 20
"""Rows among which pairs of a recipe that mixes are made."""
MOST_ALPHA = 1e6
"""Of a Beta distribution; below its inverse it is a coin."""
_MOST_TEXT = 200
_MOST_ITEMS = 256
_MOST_NUMBER = 1e6
_MOST_BY_NAME: Mapping[str, float] = {
    # sides and margins, in pixels
    "size": MOST_SIDE,
    "max_size": MOST_SIDE,
    "min_size": MOST_SIDE,
    "target_size": MOST_SIDE,
    "padding": MOST_SIDE,
    "canvas": 2048,
    # how often something is done
    "num_ops": 16,
    "mixture_width": 16,
    "chain_depth": 16,
    "num_samples": 64,
    "trials": 1000,
    "min_count": 100,
    "max_count": 100,
    # tables and kernels that are made
    "num_magnitude_bins": 1000,
    "num_output_channels": 3,
    "kernel_size": 255,
    "sigma": 100,
}
"""The largest number that a parameter of this name may be; of others `_MOST_NUMBER`."""
_POLICY_PART = re.compile(r"([a-z]+)([0-9.]+)")
_MOST_IN_POLICY: Mapping[str, float] = {"n": 16, "w": 16, "d": 16}
"""Of timm's policies: operations, width and depth. Of other numbers, such as magnitudes,
`_MOST_MAGNITUDE`."""
_MOST_MAGNITUDE = 1000
Size = tuple[float, float]
"""Height and width, or bounds of them."""


def check_transforms(transforms: Sequence[Any], recipe: str) -> None:
    """Check what the transforms of a recipe ask for, before any of them is made.

    Args:
        transforms: tables, as the recipe has them.
        recipe: how messages name it.

    Raises:
        RecipeError: more transforms, deeper ones, or a larger number than makes sense; or a value
            that is none of TOML's plain ones.
    """
    pending = [(entry, 1) for entry in transforms]
    count = 0
    while pending:
        entry, depth = pending.pop()
        count += 1
        if count + len(pending) > MOST_TRANSFORMS:
            raise RecipeError(
                f"{recipe} has more than {MOST_TRANSFORMS} transforms, those inside of others"
                " counted"
            )
        if depth > MOST_DEPTH:
            raise RecipeError(
                f"{recipe} has transforms inside of each other, more than {MOST_DEPTH} deep"
            )
        pending += [(inner, depth + 1) for inner in _inner_entries(entry, recipe)]


def _inner_entries(entry: Any, recipe: str) -> list[Mapping[str, Any]]:
    """Return the tables of transforms inside of a table, after a look at all else in it."""
    entries: list[Mapping[str, Any]] = []
    if isinstance(entry, Mapping):
        where = f"{recipe}: {brief(entry.get('name', 'a transform'))}"
        for key, value in entry.items():
            entries += _entries_in(str(key), value, where)
    return entries


def _entries_in(key: str, value: Any, where: str, depth: int = 1) -> list[Mapping[str, Any]]:
    """Return the tables of transforms in a parameter's value, after a look at all that is none."""
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list):
        if len(value) > _MOST_ITEMS:
            raise RecipeError(
                f"{where}: {brief(key)} is a list of {len(value)}; it may be of {_MOST_ITEMS}"
            )
        if depth > MOST_DEPTH:
            raise RecipeError(
                f"{where}: {brief(key)} has lists inside of each other, more than {MOST_DEPTH} deep"
            )
        entries: list[Mapping[str, Any]] = []
        for item in value:
            entries += _entries_in(key, item, where, depth + 1)
        return entries
    if isinstance(value, str):
        _check_text(key, value, where)
    elif isinstance(value, int | float):
        most = _MOST_BY_NAME.get(key, _MOST_NUMBER)
        if not -most <= value <= most:  # nor is NaN
            raise RecipeError(
                f"{where}: {brief(key)} is {quoted(value)}; it may be at most {most:g}"
            )
    else:
        raise RecipeError(
            f"{where}: {brief(key)} is {quoted(value)}; write a number, text, true or false, or a"
            " list of them"
        )
    return []


def _check_text(key: str, value: str, where: str) -> None:
    if len(value) > _MOST_TEXT:
        raise RecipeError(
            f"{where}: {brief(key)} has {len(value)} characters; it may have {_MOST_TEXT}"
        )
    if key != "policy":
        return
    for letters, digits in _POLICY_PART.findall(value):
        most = _MOST_IN_POLICY.get(letters, _MOST_MAGNITUDE)
        # of several points only the last is one
        number = digits.replace(".", "", digits.count(".") - 1)
        if float(number or 0) > most:
            raise RecipeError(
                f"{where}: policy {quoted(value)} has a number after {letters} that is past"
                f" {most:g}"
            )


def bounded(transform: Any, name: str) -> Any:
    """Return a transform that, from now on, refuses to make an image of more pixels than memory
    should be asked for.

    It then raises a RecipeError before it runs, wherever it stands, inside of other transforms too.
    Of the transforms that are no modules (timm's) none makes an image larger.

    Raises:
        ValueError: it may never end.
    """
    if name == "RandomIoUCrop" and max(transform.options, default=0.0) < 1:
        raise ValueError(
            "sampler_options has no value of 1 or more, which lets an image be as it is: where no"
            " crop fits, torchvision would draw for ever"
        )
    if isinstance(transform, nn.Module) and name in _GROWING:
        # a hook of torch's would take as long as a small image does
        transform.forward = _BoundedForward(transform, name)
    return transform


class _BoundedForward:
    """The `forward` of a transform, which refuses images of which it would make too large ones;
    most images are of a size that was looked at just before."""

    def __init__(self, transform: nn.Module, name: str) -> None:
        self._transform = transform
        self._name = name
        self._last_size: Sequence[int] = ()

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        self._check(inputs[0])
        return type(self._transform).forward(self._transform, *inputs, **options)

    def _check(self, image: Any) -> None:
        if isinstance(image, Image.Image):
            size: Sequence[int] = image.size
        else:
            size = image.shape
        if size == self._last_size:
            return
        height, width = functional.get_size(image)
        high, wide = _GROWING[self._name](self._transform, height, width)
        most = max(MOST_PIXELS, height * width)
        if high * wide > most:
            raise RecipeError(
                f"{self._name} would make up to {high:.0f}x{wide:.0f} pixels of an image of "
                f"{height}x{width}; at most {most} are taken: give it smaller numbers"
            )
        self._last_size = size


def _resized(transform: Any, height: int, width: int) -> Size:
    size = transform.size or []
    if isinstance(size, int):
        size = [size]
    if len(size) == 2:
        return size[0], size[1]
    shorter = size[0] if size else None
    return _at_shorter(shorter, transform.max_size, height, width)


def _at_shorter(shorter: float | None, longer: float | None, height: int, width: int) -> Size:
    """Return the size of an image whose shorter side becomes `shorter`, but whose longer one at
    most `longer`."""
    factors = []
    if shorter is not None:
        factors.append(shorter / min(height, width))
    if longer is not None:
        factors.append(longer / max(height, width))
    factor = min(factors, default=1.0)
    return factor * height, factor * width


def _padded(transform: Any, height: int, width: int) -> Size:
    """Return the size with margins as torchvision takes them: one, those of the sides and of top
    and bottom, or all four."""
    padding = transform.padding
    margins = [padding]
    if not isinstance(padding, int):
        margins = list(padding)
    if len(margins) != 4:
        margins = (margins * 4)[:4]
    left, top, right, bottom = margins
    height = height + max(top, 0) + max(bottom, 0)
    width = width + max(left, 0) + max(right, 0)
    return height, width


def _cropped(transform: Any, height: int, width: int) -> Size:
    """Return the size with margins: those of `padding`, which torchvision keeps in another
    order, and those that are needed."""
    if transform.padding is not None:
        left, right, top, bottom = transform.padding
        height = height + max(top, 0) + max(bottom, 0)
        width = width + max(left, 0) + max(right, 0)
    if not transform.pad_if_needed:
        return height, width
    high, wide = transform.size
    height = height + 2 * max(high - height, 0)
    width = width + 2 * max(wide - width, 0)
    return height, width


def _turned(transform: Any, height: int, width: int) -> Size:
    if not transform.expand:
        return height, width
    # the area is h w + (h^2 + w^2) sin(2 angle) / 2; most of all it is at 45 degrees
    angle = min(max(map(abs, transform.degrees)), 45.0)
    high = height + 2  # rounding
    wide = width + 2
    turn = math.sin(math.radians(2 * angle))
    area = high * wide + (high**2 + wide**2) / 2 * turn
    side = math.sqrt(area)
    return side, side


def _jittered(transform: Any, height: int, width: int) -> Size:
    high, wide = transform.target_size
    factor = min(high / height, wide / width)
    factor *= max(transform.scale_range)
    return factor * height, factor * width


def _zoomed_out(transform: Any, height: int, width: int) -> Size:
    factor = max(transform.side_range)
    return factor * height, factor * width


def _scaled(transform: Any, height: int, width: int) -> Size:
    factor = max(transform.scales)
    return factor * height, factor * width


def _center_cropped(transform: Any, height: int, width: int) -> Size:
    high, wide = transform.size
    return max(height, high), max(width, wide)


def _resized_in_range(transform: Any, height: int, width: int) -> Size:
    largest = max(transform.min_size, transform.max_size)
    return _at_shorter(largest, None, height, width)


def _resized_to_shorter(transform: Any, height: int, width: int) -> Size:
    return _at_shorter(max(transform.min_size), transform.max_size, height, width)


def _crop_size(transform: Any, height: int, width: int) -> Size:
    high, wide = transform.size
    return high, wide


_GROWING: Mapping[str, Callable[[Any, int, int], Size]] = {
    "CenterCrop": _center_cropped,
    "Pad": _padded,
    "RandomCrop": _cropped,
    "RandomResize": _resized_in_range,
    "RandomResizedCrop": _crop_size,
    "RandomRotation": _turned,
    "RandomShortestSize": _resized_to_shorter,
    "RandomZoomOut": _zoomed_out,
    "Resize": _resized,
    "ScaleJitter": _jittered,
    "kdcache.Letterbox": _crop_size,
    "kdcache.RandomScale": _scaled,
    "kdcache.StoredCrop": _crop_size,
    "kdcache.StoredDraw": _crop_size,
}
"""Of each transform that can make an image larger: bounds of its height and width, on the way
too."""
