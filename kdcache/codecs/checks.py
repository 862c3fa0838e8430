"""Whether records can be decoded at all: they may come from anywhere, and a class that there is not ends a process on a GPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.errors import CodecError
from kdcache.shapes import Records

_BFLOAT16_EXPONENT = 0x7F80


def check_records(stored: Mapping[str, Any], records: Records, row: "np.dtype[Any] | None", classes: int) -> None:
    """Raise a CodecError if a record holds NaN, infinity or a class beyond the last.

    Args:
        stored: the codec as a manifest keeps it.
        records: of any shape, or of maps, whose pixels' rows lie in them byte by byte.
        row: of a pixel, in records of maps; None where any bytes will do, as those of `lowrank`.
        classes: their number.
    """
    if "maps" not in (records.dtype.names or ()):
        _check_rows(stored, records, classes)
    elif row is not None and row.itemsize:
        for number, maps in enumerate(records["maps"].reshape(-1, *records.dtype["maps"].shape)):
            pixels = np.ascontiguousarray(np.moveaxis(maps, 1, 3)).view(row)
            _check_rows(stored, pixels.reshape(-1), classes, f"a pixel of record {number % records.shape[-1]}")


def _check_rows(stored: Mapping[str, Any], records: Records, classes: int, where: str | None = None) -> None:
    for name in records.dtype.names or ():
        if name == "classes":
            wrong, what = records[name] >= classes, f"a class beyond {classes - 1}"
        elif stored["configuration"].get("dtype") == "bfloat16":
            wrong, what = (records[name] & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT, "NaN or infinity"
        elif records.dtype[name].base.kind == "f":
            wrong, what = ~np.isfinite(records[name]), "NaN or infinity"
        else:
            continue
        if wrong.any():
            raise CodecError(f"{where or f'record {np.argwhere(wrong)[0][records.ndim - 1]}'} of it holds {what} in {name}")
