"""The parameters of ml-dr's views, as its option `compress` writes them.

A list has a value for each transform that draws, in the order of ml-dr's program; with mixing,
before all the number of the partner, or None.

| transform | value |
|---|---|
| random_resized_crop | top, left, height and width in pixels of the image |
| random_horizontal_flip | whether it is flipped |
| rand_augment | a number in `_NAMES` and a magnitude, for each operation |
| random_erase | top, left, height and width in pixels of the view |
| mixup | the share of the view |
| cutmix | a share without use, then the first row, the first column, one past the last row, and one
past the last column, that are taken from the partner's |

None stands for a transform that was left out. With a partner those before mixup have two values,
the second of the partner's view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcache.errors import quoted
from kdcache.views.stored_arrays import (
    BLOCKS,
    CUTS,
    FLIPS,
    OF_PARTNER,
    OPERATIONS,
    PARTNERS,
    PIXEL_BOXES,
    SHARES,
)

CROP = "random_resized_crop"
FLIP = "random_horizontal_flip"
AUGMENT = "rand_augment"
ERASE = "random_erase"
MIXUP = "mixup"
CUTMIX = "cutmix"
DRAWING = (CROP, FLIP, AUGMENT, ERASE, MIXUP, CUTMIX)
"""The transforms that draw, in order."""
_OF_MIX = (MIXUP, CUTMIX)
_NAMES = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness"),
    *("Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
_MOST_PIXELS = (1 << 16) - 1
_MOST_SAMPLES = (1 << 32) - 2
_MOST_KINDS = 256
"""Of operations with their magnitudes, since each has a number of 8 bits."""
Shares = tuple[float, float, float, float]
"""A box in shares of a view."""
_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(kw_only=True)
class Augmentation:
    """How views were made, and which operations were met in them."""

    size: int
    """The side of a view."""
    names: tuple[str, ...]
    """Of the transforms that draw, in order."""
    num_operations: int
    """Of a view."""
    _table: dict[tuple[str, float], int] = field(default_factory=dict)
    """The number of each operation that was met."""

    @property
    def erases(self) -> bool:
        """Whether views may have an erased block."""
        return ERASE in self.names

    @property
    def mixes(self) -> bool:
        """Whether views may be mixed."""
        return any(name in self.names for name in _OF_MIX)

    @property
    def operations(self) -> list[list[Any]]:
        """The table of those that were met, `[name, magnitude]`."""
        return [[name, magnitude] for name, magnitude in self._table]

    def arrays(self, views: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return what is stored of the views of a sample, `[views, ...]`.

        Args:
            views: the parameters of each.

        Raises:
            ValueError: other parameters.
        """
        rows = [self._row(view) for view in views]
        arrays: dict[str, np.ndarray] = {}
        for name, dtype in self._dtypes().items():
            arrays[name] = np.array([row[name] for row in rows], dtype)
        return arrays

    def _dtypes(self) -> dict[str, str]:
        """Return the types of the arrays that such views have."""
        own = {PIXEL_BOXES: "<u2", FLIPS: "|u1"}
        if self.num_operations:
            own[OPERATIONS] = "|u1"
        if self.erases:
            own[BLOCKS] = "<f2"
        if not self.mixes:
            return own
        others = {f"{OF_PARTNER}{name}": dtype for name, dtype in own.items()}
        return own | others | {PARTNERS: "<u4", SHARES: "<f4", CUTS: "<f2"}

    def _row(self, view: Any) -> dict[str, Any]:
        """Return what is stored of a view, by the names of the arrays."""
        if not isinstance(view, list | tuple):
            raise ValueError(
                f"parameters {quoted(view)}, and only those that `compress: true` wrote are read"
            )
        values = list(view)
        partner = None
        if self.mixes and values:
            partner = values.pop(0)
        if len(values) != len(self.names):
            raise ValueError(f"parameters {quoted(view)}; they are to be {', '.join(self.names)}")
        by_name = dict(zip(self.names, values, strict=True))
        mix = _mix_row(partner, by_name.pop(MIXUP, None), by_name.pop(CUTMIX, None), self.size)
        if partner is None:
            own = self._unmixed_row(by_name)
            nothing = {f"{OF_PARTNER}{name}": np.zeros_like(value) for name, value in own.items()}
            return own | nothing | mix
        pairs = {name: _pair(value) for name, value in by_name.items()}
        own = self._unmixed_row({name: value for name, (value, _) in pairs.items()})
        other = self._unmixed_row({name: value for name, (_, value) in pairs.items()})
        of_partner = {f"{OF_PARTNER}{name}": value for name, value in other.items()}
        return own | of_partner | mix

    def _unmixed_row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is stored of a view before it is mixed."""
        return {
            PIXEL_BOXES: _whole_numbers(values[CROP], 4),
            FLIPS: _flag(values.get(FLIP)),
            OPERATIONS: self._operation_numbers(values.get(AUGMENT)),
            BLOCKS: _block(values.get(ERASE), self.size),
        }

    def _operation_numbers(self, value: Any) -> list[int]:
        """Return the numbers of operations in the table."""
        if value is None:
            value = [(_NAMES.index("Identity"), 0.0)] * self.num_operations
        if not isinstance(value, list | tuple) or len(value) < self.num_operations:
            raise ValueError(f"operations {quoted(value)}; they are {self.num_operations} pairs")
        numbers: list[int] = []
        for pair in value[: self.num_operations]:
            operation = self._operation(pair)
            numbers.append(self._table.setdefault(operation, len(self._table)))
        if len(self._table) > _MOST_KINDS:
            raise ValueError(
                f"more operations than {_MOST_KINDS}, each with its magnitude, which is the most"
                " that is read"
            )
        return numbers

    def _operation(self, pair: Any) -> tuple[str, float]:
        """Return the name and the magnitude of an operation; of a translation as a share."""
        number, magnitude = _pair(pair)
        is_known = type(number) is int and 0 <= number < len(_NAMES)
        if not is_known or type(magnitude) is not float or not abs(magnitude) < _MOST_PIXELS:
            raise ValueError(f"operation {quoted(pair)}; it is a number and a magnitude")
        name = _NAMES[number]
        if name.startswith("Translate"):
            return name, int(magnitude) / self.size
        return name, magnitude


def _mix_row(partner: Any, share: Any, cut: Any, size: int) -> dict[str, Any]:
    """Return what is stored of how a view is mixed."""
    if partner is None:
        if share is not None or cut is not None:
            raise ValueError("a view that is mixed, and no partner")
        return {PARTNERS: 0, SHARES: 0.0, CUTS: _NO_BOX}
    (number,) = _whole_numbers([partner], 1, most=_MOST_SAMPLES)
    share_of_partner = 0.0
    if share is not None:
        if type(share) is not float or not 0 <= share <= 1:
            raise ValueError(f"share {quoted(share)} of mixup; it is from 0 to 1")
        share_of_partner = 1 - share
    box = _NO_BOX
    if cut is not None:
        if not isinstance(cut, list | tuple) or len(cut) != 5:
            raise ValueError(f"{quoted(cut)} of cutmix; it is a share and four numbers")
        top, left, bottom, right = _whole_numbers(cut[1:], 4)
        box = _shares((top, left, bottom - top, right - left), size)
    return {PARTNERS: number + 1, SHARES: share_of_partner, CUTS: box}


def _block(value: Any, size: int) -> Shares:
    """Return what is erased of a view, in shares of it; nothing from row -1 on."""
    if value is None:
        return _NO_BOX
    top, left, height, width = _whole_numbers(value, 4, least=-1)
    if top == -1:
        return _NO_BOX
    return _shares((top, left, height, width), size)


def _shares(box: tuple[int, int, int, int], size: int) -> Shares:
    """Return a box in shares of a view; four zeros of one without a pixel."""
    top, left, height, width = box
    if height <= 0 or width <= 0:
        return _NO_BOX
    return top / size, left / size, height / size, width / size


def _whole_numbers(values: Any, count: int, *, least: int = 0, most: int = _MOST_PIXELS) -> Any:
    """Return a tuple of whole numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{quoted(values)}, which is not {count} numbers")
    if not all(type(value) is int and least <= value <= most for value in values):
        raise ValueError(f"{quoted(values)}; they are whole numbers from {least} to {most}")
    return tuple(values)


def _flag(value: Any) -> bool:
    """Return whether a view is flipped."""
    if value is not None and type(value) is not bool:
        raise ValueError(f"flip {quoted(value)}; it is True or False")
    return bool(value)


def _pair(value: Any) -> tuple[Any, Any]:
    """Return two values that belong together."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{quoted(value)} where two values are to be")
    first, second = value
    return first, second
