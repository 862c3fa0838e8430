"""The arrays of stored views: which there are, and what they may say.

Each has a value for each view: of a cache's views `[seeds, samples, ...]`, of one sample's
`[views, ...]`.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""By name."""
Boxes = np.ndarray[Any, np.dtype[Any]]
"""Top, left, height and width, `[..., 4]`; four zeros are no box."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]
MOST_VIEW_BYTES = 256
"""Of all arrays, for a view."""
OF_PARTNER = "partner_"
"""What the names of a partner's arrays begin with."""
_SLACK = 2.0**-9
"""By which a box may pass the end: shares that were published in float16 are rounded."""


class _Kind(NamedTuple):
    """What an array holds of a view."""

    dtype: str
    sides: tuple[int | None, ...]
    """None for any."""


BOXES = "boxes"
"""That are cut out, in shares of the image's height and width."""
PIXEL_BOXES = "pixel_boxes"
"""Likewise, in pixels."""
FLIPS = "flips"
"""1 if a view is flipped after it was cut out, else 0."""
OPERATIONS = "operations"
"""Numbers in the table of the recipe's transform."""
BLOCKS = "blocks"
"""That are erased, in shares of the view."""
PARTNERS = "partners"
"""1 + the number of the sample that a view is mixed with; 0 if it is not."""
SHARES = "shares"
"""Of the partner's view, which both are blended with; 0 if they are not."""
CUTS = "cuts"
"""In shares of the view, which is then taken from the partner's."""
_OF_VIEW: Mapping[str, _Kind] = {
    BOXES: _Kind("<f4", (4,)),
    PIXEL_BOXES: _Kind("<u2", (4,)),
    FLIPS: _Kind("|u1", ()),
    OPERATIONS: _Kind("|u1", (None,)),
    BLOCKS: _Kind("<f2", (4,)),
}
"""Of a view before it is mixed."""
_OF_MIX: Mapping[str, _Kind] = {
    PARTNERS: _Kind("<u4", ()),
    SHARES: _Kind("<f4", ()),
    CUTS: _Kind("<f2", (4,)),
}


def check_kinds(arrays: Arrays, *, num_axes: int) -> None:
    """Check that these are arrays of stored views.

    Args:
        arrays: to be checked.
        num_axes: how many of the first axes say which view.

    Raises:
        ValueError: they are not.
    """
    own_names = [name for name in arrays if name in _OF_VIEW]
    expected = {name: _OF_VIEW[name] for name in own_names}
    if PARTNERS in arrays:
        expected |= _OF_MIX
        expected |= {f"{OF_PARTNER}{name}": _OF_VIEW[name] for name in own_names}
    has_one_box = (BOXES in arrays) != (PIXEL_BOXES in arrays)
    if arrays.keys() != expected.keys() or FLIPS not in arrays or not has_one_box:
        raise ValueError(f"stored views are boxes and flips, not {', '.join(arrays)}")
    views = arrays[FLIPS].shape
    for name, array in arrays.items():
        kind = expected[name]
        sides = array.shape[num_axes:]
        has_sides = len(sides) == len(kind.sides) and all(
            side == asked or asked is None for side, asked in zip(sides, kind.sides, strict=True)
        )
        if array.dtype != kind.dtype or not has_sides or array.shape[:num_axes] != views:
            raise ValueError(
                f"{name} of shape {array.shape} and type {array.dtype}, and flips of shape {views}"
            )


def check_values(arrays: Arrays, num_samples: int) -> None:
    """Check what arrays say.

    Args:
        arrays: of some views.
        num_samples: of the source.

    Raises:
        ValueError: a box that does not lie in its image, or a number that means nothing.
    """
    for name, array in arrays.items():
        kind = name.removeprefix(OF_PARTNER)
        if kind in (BOXES, BLOCKS, CUTS):
            is_empty = (array == 0).all(-1)
            if not (is_empty | are_boxes(array)).all():
                raise ValueError(f"{name} of which one does not lie in its image")
        elif kind == PIXEL_BOXES and ((array[..., 2] > 0) != (array[..., 3] > 0)).any():
            raise ValueError(f"{name} of which one has no pixel")
        elif kind == FLIPS and array.max(initial=0) > 1:
            raise ValueError(f"{name} that are neither 0 nor 1")
        elif kind == PARTNERS and array.max(initial=0) > num_samples:
            raise ValueError(f"{name} beyond the last of {num_samples} samples")
        elif kind == SHARES and not ((array >= 0) & (array <= 1)).all():  # nor is NaN
            raise ValueError(f"{name} that are not from 0 to 1")
    if PARTNERS in arrays:
        is_mixed = arrays[PARTNERS] > 0
        if (is_mixed & ~are_stored(arrays, prefix=OF_PARTNER)).any():
            raise ValueError("partners of which no box is stored")


def are_boxes(boxes: Boxes) -> Mask:
    """Return which boxes in shares are not empty and lie in their image; NaN does not."""
    starts = boxes[..., :2].astype(np.float32)
    sizes = boxes[..., 2:].astype(np.float32)
    is_inside = (starts >= 0) & (sizes > 0) & (starts + sizes <= 1 + _SLACK)
    return np.asarray(is_inside.all(-1))


def are_stored(arrays: Arrays, *, prefix: str = "") -> Mask:
    """Return of which views something is stored; with `OF_PARTNER`, of their partners."""
    boxes = arrays[prefix + box_name(arrays)]
    return np.asarray(boxes[..., 2] > 0)


def box_name(arrays: Arrays) -> str:
    """Return which array holds the boxes that are cut out."""
    return PIXEL_BOXES if PIXEL_BOXES in arrays else BOXES


def bytes_per_view(arrays: Arrays, *, num_axes: int) -> int:
    """Return the bytes that arrays have for a view.

    Args:
        arrays: of views.
        num_axes: how many of the first axes say which view.
    """
    return sum(array.dtype.itemsize * prod(array.shape[num_axes:]) for array in arrays.values())
