"""What is known of transforms from their tables in a recipe: what they draw from, and what moves
with them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcache.runtime.generators import ALL_GENERATORS, Generators
from kdcache.views.stored_crop import StoredCrop
from kdcache.views.stored_draw import StoredDraw
from kdcache.views.stored_erasing import StoredErasing
from kdcache.views.stored_operations import StoredOperations
from kdcache.views.stored_transform import StoredTransform
from kdcache.views.timm_transforms import TIMM_TRANSFORMS

STORED_TRANSFORMS: Mapping[str, type[StoredTransform]] = {
    "kdcache.StoredCrop": StoredCrop,
    "kdcache.StoredDraw": StoredDraw,
    "kdcache.StoredErasing": StoredErasing,
    "kdcache.StoredOperations": StoredOperations,
}
"""Those that do what is stored of a view."""
NEVER_DRAW = frozenset(
    ("CenterCrop", "Grayscale", "Pad", "Resize", "kdcache.Letterbox", *STORED_TRANSFORMS)
)
"""Names of transforms that draw nothing."""
MOVING_ALONE = ("timm.AutoAugment", "kdcache.StoredDraw", "kdcache.StoredOperations")
"""Transforms that move pixels of the image alone."""
_DRAWS_BY_SIZE = (
    "ElasticTransform",
    "GaussianNoise",
    "RandomCrop",
    "RandomErasing",
    "RandomIoUCrop",
    "RandomPerspective",
    "RandomResize",
    "RandomResizedCrop",
    "RandomShortestSize",
    "RandomZoomOut",
    "ScaleJitter",
    "TrivialAugmentWide",  # shifts by pixels; the other policies by a share of the image
)
"""Transforms that draw from a range that depends on the size of the image that comes in."""
_INPUT = re.compile(r"input(?:/(.*))?")


def single_transforms(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield the tables of single transforms in order, those inside RandomApply and the like in its
    place."""
    for entry in transforms:
        if "transforms" in entry:
            yield from single_transforms(entry["transforms"])
        else:
            yield entry


def generators_of(transforms: Sequence[Any]) -> Generators:
    """Return which of the global generators the tables of some transforms may draw from.

    All of torchvision's v2 and our own draw from torch's alone.
    """
    names = {*_names(transforms)}
    if names <= NEVER_DRAW:
        return frozenset()
    if names & TIMM_TRANSFORMS.keys():
        return ALL_GENERATORS
    return frozenset(("torch",))


def _names(value: Any) -> Iterator[str]:
    """Yield the names of all transforms in a value of a recipe, those inside of others too."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        yield value["name"]
        yield from _names([*value.values()])


def drawn_by_input_size(transforms: Sequence[Any]) -> str | None:
    """Return the name of the first transform that draws from a range that depends on the input
    size; None if none does."""
    is_after = False
    for entry in single_transforms(transforms):
        is_first = not is_after and _names_input(entry)
        is_after = is_after or is_first
        # the crop that makes the input draws from the size of the image that comes in
        is_crop = is_first and entry["name"] == "RandomResizedCrop"
        if is_after and entry["name"] in _DRAWS_BY_SIZE and not is_crop:
            name: str = entry["name"]
            return name
    return None


def _names_input(value: Any) -> bool:
    """Return whether a value of a recipe names the input size, anywhere in it."""
    if isinstance(value, dict):
        return any(map(_names_input, value.values()))
    if isinstance(value, list):
        return any(map(_names_input, value))
    return is_input(value)


def is_input(value: Any) -> bool:
    """Return whether a value is the input size or a part of it, as `input/0.875`."""
    return isinstance(value, str) and _INPUT.fullmatch(value) is not None
