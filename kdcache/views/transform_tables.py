"""The tables of transforms that are objects: what a recipe would say of them.

torchvision's of both versions keep what they were given under the names of their parameters. What
is read off one is tried out: a second transform that is made from it has the same attributes, or
the first is refused.
"""

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from numbers import Real
from typing import Any

from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from kdcache.errors import RecipeError, quoted
from kdcache.views.timm_transforms import RandomErasing

Table = dict[str, Any]

_ATTRIBUTES = {"sampler_options": "options"}
"""Of parameters that are kept under another name."""
_TIMM = "timm.data."
_CROPS = frozenset(("CenterCrop", "RandomCrop", "RandomResizedCrop"))
"""Transforms of which one number as size is a square."""
_POLICIES = frozenset(("AugMixAugment", "AutoAugment", "RandAugment"))
"""Classes of timm's that do not keep the text of their policy."""


class UnreadableParameterError(ValueError):
    """A parameter is none of TOML's plain values."""


def table_of(transform: Any) -> Table:
    """Return the table of a transform, with its parameters that are not at their defaults.

    Args:
        transform: one of torchvision's, v1 or v2, or of timm's; or a table, which is returned.

    Raises:
        RecipeError: code of one's own, or a parameter that cannot be read off.
    """
    if isinstance(transform, Mapping):
        return dict(transform)
    if type(transform).__module__.startswith(_TIMM):
        return _timm_table(transform)
    name = type(transform).__name__
    _require_torchvisions(transform)
    if name == "RandomErasing" and transform.value in (None, "random"):
        raise RecipeError(
            "RandomErasing with noise has no meaning for bytes; put a table in its place:"
            ' {"name": "timm.RandomErasing", "mode": "pixel"}'
        )
    try:
        return {"name": name, **_parameters(transform, getattr(v2, name))}
    except (AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"transform {transform!r} cannot be read ({error}); put its table in its place, such as"
            f' {{"name": {json.dumps(name)}, ...}}'
        ) from error


def library_name(transform: Any) -> str:
    """Return the name of a transform of torchvision's or timm's; nothing of any other, which may
    have the same."""
    name = type(transform).__name__
    if type(transform) in (getattr(v1, name, None), getattr(v2, name, None)):
        return name
    if type(transform).__module__.startswith(_TIMM):
        return name
    return ""


def _require_torchvisions(transform: Any) -> None:
    """Raise a RecipeError if a transform is not one of torchvision's own with plain parameters."""
    if not callable(transform):
        raise RecipeError(
            f"{quoted(transform)} is no transform; give one of torchvision's, or a table as in a"
            " recipe's file"
        )
    name = library_name(transform)
    if not name or not hasattr(v2, name) or name == "Lambda":
        named = transform if hasattr(transform, "__qualname__") else type(transform)
        raise RecipeError(
            f"transform {named.__module__}.{named.__qualname__} is code, which a cache cannot keep:"
            " call it in the __getitem__ of your data set, for which random, numpy and torch are"
            " seeded for each view; or give one of torchvision's"
        )


def _parameters(transform: Any, transform_class: type) -> Table:
    """Return the parameters of one of torchvision's transforms that are not at their defaults.

    Raises:
        AttributeError, TypeError, ValueError: they cannot be read off.
    """
    given: dict[str, Any] = {}
    plain: Table = {}
    for key, parameter in inspect.signature(transform_class).parameters.items():
        if key == "inplace":
            continue
        value = getattr(transform, _ATTRIBUTES.get(key, key))
        given[key] = value
        if key == "transforms":
            plain[key] = [table_of(inner) for inner in value]
            continue
        entry = _plain(value)
        if transform_class.__name__ in _CROPS and key == "size":
            entry = _of_one_number(entry)
        is_even = isinstance(entry, list) and _of_one_number(entry) is not entry
        if transform_class is v2.RandomChoice and is_even:
            continue  # each as likely as the others, as by default
        if entry is not None and entry != _plain(parameter.default):
            plain[key] = entry
    _require_same(transform, transform_class(**given), given)
    return plain


def _require_same(transform: Any, again: Any, given: Mapping[str, Any]) -> None:
    """Raise a ValueError if a transform that was made from what another keeps is not the same."""
    for key in given:
        if key == "transforms":
            continue
        attribute = _ATTRIBUTES.get(key, key)
        first, second = _plain(getattr(transform, attribute)), _plain(getattr(again, attribute))
        if first is not None and _of_one_number(first) != _of_one_number(second):
            raise ValueError(f"{key} is not kept as it was given")


def _of_one_number(value: Any) -> Any:
    """Return the number of a list that holds it alone, once or several times; else the value."""
    if isinstance(value, list) and value and value == value[:1] * len(value):
        return value[0]
    return value


def _plain(value: Any) -> Any:
    """Return a parameter as TOML has it; of a list of one number that number.

    Raises:
        UnreadableParameterError: it is none of TOML's plain values.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Real):
        return float(value)
    if value is inspect.Parameter.empty:
        return None
    if isinstance(value, list | tuple):
        values = [_plain(item) for item in value]
        if len(values) == 1:
            return values[0]
        return values
    raise UnreadableParameterError(f"{value!r} is no plain value")


def _timm_table(transform: Any) -> Table:
    """Return the table of one of timm's transforms.

    Raises:
        RecipeError: one that a recipe has no word for.
    """
    name = type(transform).__name__
    if name == "RandomResizedCropAndInterpolation":
        return _timm_crop(transform)
    if name == "RandomErasing":
        return _timm_erasing(transform)
    if name in _POLICIES:
        raise RecipeError(
            f"timm's {name} does not keep the text of its policy; put its table in its place, such"
            ' as {"name": "timm.AutoAugment", "policy": "rand-m9-mstd0.5-inc1"}'
        )
    raise RecipeError(
        f"timm's {name} has no table; give one of torchvision's in its place, or call it in the"
        " __getitem__ of your data set"
    )


def _timm_crop(transform: Any) -> Table:
    """Return the table of timm's crop, which may draw its interpolation."""
    modes = transform.interpolation
    if not isinstance(modes, tuple):
        modes = (modes,)
    crops = []
    for mode in modes:
        crop = v2.RandomResizedCrop(transform.size, transform.scale, transform.ratio, mode)
        crops.append(table_of(crop))
    if len(crops) == 1:
        return crops[0]
    return {"name": "RandomChoice", "transforms": crops}


def _timm_erasing(transform: Any) -> Table:
    """Return the table of timm's erasing."""
    lowest, highest = map(math.exp, transform.log_aspect_ratio)
    if not math.isclose(lowest * highest, 1, rel_tol=1e-6):
        raise RecipeError(
            f"timm's RandomErasing has aspects from {lowest:g} to {highest:g}; the highest must be"
            f" the inverse of the lowest, {1 / lowest:g}"
        )
    given = {
        "probability": transform.probability,
        "mode": transform.mode or "const",
        "min_area": transform.min_area,
        "max_area": transform.max_area,
        "min_aspect": round(lowest, 9),
        "min_count": transform.min_count,
        "max_count": transform.max_count,
    }
    table = {"name": "timm.RandomErasing"}
    for key, parameter in inspect.signature(RandomErasing).parameters.items():
        if key in given and given[key] != parameter.default:
            table[key] = _plain(given[key])
    return table


def single_transforms(transforms: Any) -> Iterator[Any]:
    """Yield the transforms of a list, or of what torchvision composes, in order.

    The presets that come with torchvision's weights are resize, crop and normalisation.
    """
    if isinstance(transforms, list | tuple):
        for transform in transforms:
            yield from single_transforms(transform)
    elif type(transforms) in (v1.Compose, v2.Compose):
        yield from single_transforms([*transforms.transforms])
    elif type(transforms) is ImageClassification:
        yield v2.Resize(
            transforms.resize_size,
            interpolation=transforms.interpolation,
            antialias=transforms.antialias,
        )
        yield v2.CenterCrop(transforms.crop_size)
        yield v2.Normalize(transforms.mean, transforms.std)
    else:
        yield transforms
