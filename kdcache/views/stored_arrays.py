"""The arrays of stored views: which there are, and what they may say.

Each has a value for each view: of a cache's views `[seeds, samples, ...]`, of one sample's
`[views, ...]`.
"""

from collections.abc import Callable, Mapping
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
MOST_DRAW_SEED = (1 << 31) - 1
OF_PARTNER = "partner_"
"""What the names of a partner's arrays begin with."""
_SLACK = 2.0**-9
"""By which a box may pass the end: shares that were published in float16 are rounded."""
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
DRAW_SEEDS = "draw_seeds"
"""In the place of all others: 1 + the seed of the generator that draws the view; 0 where no view is
stored."""


class _Kind(NamedTuple):
    """What an array holds of a view."""

    dtype: str
    sides: tuple[int | None, ...]
    """None for any."""
    fault: Callable[[np.ndarray, int], str | None]
    """Returns what is wrong with an array, of a source of so many samples; None if nothing is."""


def _fault_of_boxes(boxes: np.ndarray, _: int) -> str | None:
    is_empty = (boxes == 0).all(-1)
    is_right = is_empty | are_boxes(boxes)
    return None if is_right.all() else "of which one does not lie in its image"


def _fault_of_pixel_boxes(boxes: np.ndarray, _: int) -> str | None:
    has_rows = boxes[..., 2] > 0
    has_columns = boxes[..., 3] > 0
    return None if np.array_equal(has_rows, has_columns) else "of which one has no pixel"


def _fault_of_flips(flips: np.ndarray, _: int) -> str | None:
    return None if flips.max(initial=0) <= 1 else "that are neither 0 nor 1"


def _fault_of_draw_seeds(seeds: np.ndarray, _: int) -> str | None:
    return None if seeds.max(initial=0) <= MOST_DRAW_SEED + 1 else "beyond the last"


def _fault_of_partners(numbers: np.ndarray, num_samples: int) -> str | None:
    is_right = numbers.max(initial=0) <= num_samples
    return None if is_right else f"beyond the last of {num_samples} samples"


def _fault_of_shares(shares: np.ndarray, _: int) -> str | None:
    is_right = (shares >= 0) & (shares <= 1)  # NaN is not
    return None if is_right.all() else "that are not from 0 to 1"


_OF_VIEW: Mapping[str, _Kind] = {
    BOXES: _Kind("<f4", (4,), _fault_of_boxes),
    PIXEL_BOXES: _Kind("<u2", (4,), _fault_of_pixel_boxes),
    FLIPS: _Kind("|u1", (), _fault_of_flips),
    OPERATIONS: _Kind("|u1", (None,), lambda *_: None),
    BLOCKS: _Kind("<f2", (4,), _fault_of_boxes),
}
"""Of a view before it is mixed."""
_OF_MIX: Mapping[str, _Kind] = {
    PARTNERS: _Kind("<u4", (), _fault_of_partners),
    SHARES: _Kind("<f4", (), _fault_of_shares),
    CUTS: _Kind("<f2", (4,), _fault_of_boxes),
}
_OF_DRAW: Mapping[str, _Kind] = {DRAW_SEEDS: _Kind("<u4", (), _fault_of_draw_seeds)}


def check_kinds(arrays: Arrays, *, num_axes: int) -> None:
    """Check that these are arrays of stored views.

    Args:
        arrays: to be checked.
        num_axes: how many of the first axes say which view.

    Raises:
        ValueError: they are not.
    """
    kinds = _kinds(arrays)
    has_one_box = (BOXES in arrays) != (PIXEL_BOXES in arrays)
    is_whole = DRAW_SEEDS in arrays or (FLIPS in arrays and has_one_box)
    if arrays.keys() != kinds.keys() or not is_whole:
        raise ValueError(
            f"stored views are boxes and flips, not {', '.join(arrays)}; or {DRAW_SEEDS} alone"
        )
    plain_name = plain_array(arrays)
    views = arrays[plain_name].shape
    for name, array in arrays.items():
        kind = kinds[name]
        is_shape = array.shape[:num_axes] == views and _fits(array.shape[num_axes:], kind.sides)
        if array.dtype != kind.dtype or not is_shape or len(views) != num_axes:
            raise ValueError(
                f"{name} of shape {array.shape} and type {array.dtype}, and {plain_name} of shape"
                f" {views}"
            )


def _kinds(arrays: Arrays) -> dict[str, _Kind]:
    """Return the arrays that there are to be, where there are these."""
    if DRAW_SEEDS in arrays:
        return dict(_OF_DRAW)
    own_names = [name for name in arrays if name in _OF_VIEW]
    kinds = {name: _OF_VIEW[name] for name in own_names}
    if PARTNERS in arrays:
        kinds |= _OF_MIX
        kinds |= {f"{OF_PARTNER}{name}": _OF_VIEW[name] for name in own_names}
    return kinds


def _fits(sides: tuple[int, ...], asked: tuple[int | None, ...]) -> bool:
    """Return whether the sides of an array are those that are asked for."""
    if len(sides) != len(asked):
        return False
    return all(wanted in (None, side) for side, wanted in zip(sides, asked, strict=True))


def check_values(arrays: Arrays, num_samples: int) -> None:
    """Check what arrays say.

    Args:
        arrays: of some views.
        num_samples: of the source.

    Raises:
        ValueError: a box that does not lie in its image, or a number that means nothing.
    """
    for name, kind in _kinds(arrays).items():
        fault = kind.fault(arrays[name], num_samples)
        if fault is not None:
            raise ValueError(f"{name} {fault}")
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
    if DRAW_SEEDS in arrays:
        return arrays[DRAW_SEEDS] > 0
    boxes = arrays[prefix + box_name(arrays)]
    return np.asarray(boxes[..., 2] > 0)


def plain_array(arrays: Arrays) -> str:
    """Return which array has one number for each view, and is there in any case."""
    return DRAW_SEEDS if DRAW_SEEDS in arrays else FLIPS


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
