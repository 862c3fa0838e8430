"""Whether records can be decoded at all: they may come from anywhere, and a class that there is not ends a process on a GPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.errors import CodecError
from kdcache.shapes import Records

_BFLOAT16_EXPONENT = 0x7F80


def check_records(stored: Mapping[str, Any], records: Records, classes: int) -> None:
    """Raise a CodecError if a record holds NaN, infinity or a class beyond the last.

    Args:
        stored: the codec as a manifest keeps it; integers of a `lowrank` record may be any.
        records: of any shape.
        classes: their number.
    """
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
            row = np.argwhere(wrong)[0][records.ndim - 1]
            raise CodecError(f"record {row} of it holds {what} in {name}")
