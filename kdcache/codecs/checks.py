"""Whether records can be decoded at all: they may come from anywhere, and a class that there is not ends a process on a GPU."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from kdcache.errors import CodecError
from kdcache.shapes import Records

_BFLOAT16_EXPONENT = 0x7F80
_EXPONENTS = {2: 0x7C00, 4: 0x7F80, 8: 0x7FF0}
"""The exponent's bits in the upper two bytes of a float of so many bytes; all are set in NaN and infinity."""


def check_records(stored: Mapping[str, Any], records: Records, row: "np.dtype[Any] | None", classes: int) -> None:
    """Raise a CodecError if a record holds NaN, infinity or a class beyond the last.

    Args:
        stored: the codec as a manifest keeps it.
        records: of any shape, or of maps, whose pixels' rows lie in them byte by byte.
        row: of a pixel, in records of maps; None where any bytes will do, as those of `lowrank`.
        classes: their number.
    """
    is_bfloat16 = stored["configuration"].get("dtype") == "bfloat16"
    if "maps" not in (records.dtype.names or ()):
        _check_rows(records, classes, is_bfloat16=is_bfloat16)
    elif row is not None and row.itemsize:
        for number, maps in enumerate(records["maps"].reshape(-1, *records.dtype["maps"].shape)):
            _check_maps(maps, row, classes, f"a pixel of record {number % records.shape[-1]}", is_bfloat16=is_bfloat16)


def _check_rows(records: Records, classes: int, *, is_bfloat16: bool) -> None:
    for name in records.dtype.names or ():
        if name == "classes":
            wrong, what = records[name] >= classes, f"a class beyond {classes - 1}"
        elif is_bfloat16:
            wrong, what = (records[name] & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT, "NaN or infinity"
        elif records.dtype[name].base.kind == "f":
            wrong, what = ~np.isfinite(records[name]), "NaN or infinity"
        else:
            continue
        if wrong.any():
            raise CodecError(f"record {np.argwhere(wrong)[0][records.ndim - 1]} of it holds {what} in {name}")


def _check_maps(maps: np.ndarray, row: "np.dtype[Any]", classes: int, where: str, *, is_bfloat16: bool) -> None:
    """Check the rows of a view's pixels, uint8 `[heads, bytes of a row, height, width]`, without putting them together."""
    for name in row.names or ():
        kind = row[name].base
        if name == "classes":
            wrong, what = _values(maps, row, name, kind.itemsize) >= classes, f"a class beyond {classes - 1}"
        elif is_bfloat16 or kind.kind == "f":
            exponent = _BFLOAT16_EXPONENT if is_bfloat16 else _EXPONENTS[kind.itemsize]
            if not _is_full(_values(maps, row, name, 1), exponent >> 8).any():
                continue  # nearly always: of numbers this large there are none, and one plane of bytes tells
            wrong, what = _is_full(_values(maps, row, name, 2), exponent), "NaN or infinity"
        else:
            continue
        if wrong.any():
            raise CodecError(f"{where} of it holds {what} in {name}")


def _values(maps: np.ndarray, row: "np.dtype[Any]", name: str, upper: int) -> np.ndarray:
    """Return a field's numbers, or so many of their upper bytes, as unsigned integers `[heads, numbers, height, width]`."""
    start, size = row.fields[name][1], row[name].base.itemsize  # type: ignore[index]
    planes = maps[:, start : start + size * prod(row[name].shape)]
    if upper == 1:
        return planes[:, size - 1 :: size]
    values = np.zeros((), np.uint16 if upper <= 2 else np.uint32 if upper <= 4 else np.uint64)
    for place in range(upper):
        values = values | (planes[:, size - upper + place :: size].astype(values.dtype) << values.dtype.type(8 * place))
    return values


def _is_full(values: np.ndarray, exponent: int) -> np.ndarray:
    """Return where all bits of the exponent are set."""
    mask = values.dtype.type(exponent)
    full: np.ndarray = (values & mask) == mask
    return full
