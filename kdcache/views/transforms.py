"""The transforms of a recipe: each is made from its table, for the mode and the size of the
views."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from kdcache.config.names import choose
from kdcache.errors import RecipeError, one_line, quoted
from kdcache.shapes import IGNORED, MOST_SIDE, Size, sides
from kdcache.targets.mask_resize import Mask
from kdcache.views.bounds import bounded
from kdcache.views.letterbox import Letterbox
from kdcache.views.random_scale import RandomScale
from kdcache.views.stored_views import StoredViews
from kdcache.views.timm_transforms import TIMM_TRANSFORMS
from kdcache.views.transform_facts import STORED_TRANSFORMS, is_input

REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What transforms raise for a parameter or an image that they cannot use."""
_FORBIDDEN = {
    "Normalize": "normalisation belongs to the model (mean=..., std=... in its spec)",
    "ToDtype": "a view is uint8 pixels",
    "Lambda": "a recipe holds plain parameters only",
    "MixUp": "mixing needs a partner; write a table [mixing] with mixup = ALPHA",
    "CutMix": "mixing needs a partner; write a table [mixing] with cutmix = ALPHA",
}
_SEVERAL_IMAGES = (
    "it joins several images, and a view is of one; RandomZoomOut and kdcache.RandomScale make"
    " objects small, too"
)
_FORBIDDEN_WORDS = {"mosaic": _SEVERAL_IMAGES, "copypaste": _SEVERAL_IMAGES}
"""In the names that other libraries give to transforms."""
_MOST_CHARS = 60
"""Of a name in a message."""


@dataclass(frozen=True, kw_only=True)
class ViewForm:
    """What a transform is made for."""

    recipe: str
    """How messages name the recipe."""
    mode: str
    """Of the images, RGB or L."""
    size: Size | None
    """Of the views; None where they are as large as their images."""
    views: StoredViews | None = None
    """That are stored, if any are."""


def build_transform(entry: Any, form: ViewForm) -> Any:
    """Return the transform of a table, which is built for views of a form.

    Raises:
        RecipeError: no table of a transform, or one with parameters that cannot be used.
        UsageError: a transform or a parameter that does not exist; the nearest is suggested.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RecipeError(f"{form.recipe}: a transform is a table with a name, not {quoted(entry)}")
    name = entry["name"]
    reason = _reason_against(name)
    if reason:
        raise RecipeError(
            f"{form.recipe}: {one_line(name, _MOST_CHARS)} cannot stand in a recipe: {reason}"
        )
    classes = _transform_classes()
    transform_class = classes[choose(name, classes, f"transform in {form.recipe}")]
    parameters = inspect.signature(transform_class).parameters
    options = dict(entry)
    del options["name"]
    arguments = {}
    for key, value in options.items():
        choose(key, parameters, f"parameter of {name} in {form.recipe}")
        arguments[key] = _argument(parameters[key], value, form)
    # what comes in from outside has no class
    if "fill" in parameters and transform_class not in TIMM_TRANSFORMS.values():
        colour = arguments.get("fill", parameters["fill"].default)
        arguments["fill"] = {"others": colour, Mask: IGNORED}
    try:
        transform = transform_class(**arguments, **_own_arguments(parameters, form))
        return bounded(transform, name)
    except REFUSALS as error:
        refusal = _refused_text(name, options, error)
        raise RecipeError(f"{form.recipe}: {refusal}: {error}") from error


def _reason_against(name: str) -> str | None:
    """Return why a transform of this name cannot stand in a recipe; None if it may."""
    if name in _FORBIDDEN:
        return _FORBIDDEN[name]
    word = name.lower().replace("_", "")
    for part, reason in _FORBIDDEN_WORDS.items():
        if part in word:
            return reason
    return None


def _own_arguments(parameters: Mapping[str, inspect.Parameter], form: ViewForm) -> dict[str, Any]:
    """Return what a transform takes that the recipe knows, and its table need not say."""
    arguments: dict[str, Any] = {}
    if "image_mode" in parameters:
        arguments["image_mode"] = form.mode
    if "image_size" in parameters:
        arguments["image_size"] = min(sides(form.size or 1))
    if "stored_views" in parameters:
        arguments["stored_views"] = form.views
    return arguments


def _refused_text(name: str, options: Mapping[str, Any], error: Exception) -> str:
    """Return what a message says was refused: the transform, or, since Python's own errors of types
    name no parameter, all of its options."""
    if not isinstance(error, TypeError) or not options:
        return name
    texts = []
    for key, value in options.items():
        texts.append(f"{key}={quoted(value)}")
    return f"{name} does not take {', '.join(texts)}"


@cache
def _transform_classes() -> dict[str, Any]:
    """Return what a recipe may name: torchvision's transforms, timm's and our own."""
    classes: dict[str, Any] = {}
    for name, value in vars(v2).items():
        is_module = inspect.isclass(value) and issubclass(value, torch.nn.Module)
        if is_module:
            classes[name] = value
    classes.update(TIMM_TRANSFORMS)
    classes["kdcache.Letterbox"] = Letterbox
    classes["kdcache.RandomScale"] = RandomScale
    classes.update(STORED_TRANSFORMS)
    return classes


def _argument(parameter: inspect.Parameter, value: Any, form: ViewForm) -> Any:
    """Return what a parameter is given for a value of a recipe's table."""
    key = parameter.name
    if isinstance(value, list):
        return _list_argument(parameter, value, form)
    if isinstance(value, dict) or key == "transforms":
        return build_transform(value, form)
    enumeration = type(parameter.default)
    if key == "interpolation":  # whose default may be None
        enumeration = InterpolationMode
    if issubclass(enumeration, Enum):
        members = [member.value for member in enumeration]
        return enumeration(choose(str(value), members, key))
    if not is_input(value):
        return value
    height, width = _input_sides(form)
    high = _resolved(key, value, height, form)
    wide = _resolved(key, value, width, form)
    if high == wide:
        return high
    return [high, wide]


def _list_argument(parameter: inspect.Parameter, values: list[Any], form: ViewForm) -> list[Any]:
    """Return what a parameter is given for a list: two of `input` are a height and a width."""
    if len(values) == 2 and is_input(values[0]) and is_input(values[1]):
        height, width = _input_sides(form)
        return [
            _resolved(parameter.name, values[0], height, form),
            _resolved(parameter.name, values[1], width, form),
        ]
    return [_argument(parameter, value, form) for value in values]


def _input_sides(form: ViewForm) -> tuple[int, int]:
    if form.size is None:
        raise RecipeError(
            f'{form.recipe} has size = "image", so that a transform cannot name the input\'s'
        )
    return sides(form.size)


def _resolved(key: str, value: str, side: int, form: ViewForm) -> int:
    """Return what `input` or `input/X` is for one side."""
    _, _, divisor = value.partition("/")
    try:
        resolved = side / float(divisor or 1)
    except (ValueError, ZeroDivisionError):
        resolved = math.nan
    if not 0.5 <= resolved <= MOST_SIDE:  # nor is NaN
        raise RecipeError(
            f"{form.recipe}: {key} = {quoted(value)} is no side of 1 to {MOST_SIDE} pixels; "
            "write for example input or input/0.875"
        )
    return round(resolved)
