"""Tables in files: comma-separated values, or Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.runtime.files import write_file
from kdcache.runtime.text_files import path_bytes

CSV = ".csv"
PARQUET = ".parquet"
_DIGITS = 6
"""Behind the point, in comma-separated values."""
Column = Sequence[str] | np.ndarray
"""Texts, or numbers `[rows]`."""


def write_table(path: Path, columns: Mapping[str, Column]) -> None:
    """Write a table, as Parquet if the name of the file ends so.

    Args:
        path: of the file.
        columns: by their names, all of one length.

    Raises:
        KdcacheError: the file cannot be written.
    """
    if path.suffix.lower() == PARQUET:
        write_file(path, _parquet(columns))
    else:
        write_file(path, _comma_separated(columns))


def _comma_separated(columns: Mapping[str, Column]) -> bytes:
    """Return UTF-8 with the names of the columns on the first line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_texts, columns.values()), strict=True))
    return path_bytes(text.getvalue())


def _texts(column: Column) -> Sequence[str]:
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind == "f":
        return [f"{number:.{_DIGITS}f}" for number in column.tolist()]
    return [str(number) for number in column.tolist()]


def _parquet(columns: Mapping[str, Column]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    arrays: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            arrays[name] = pa.array(column)
        else:
            # a name on disk may be of bytes that are no text, which Parquet does not take
            texts = [path_bytes(text).decode(errors="replace") for text in column]
            arrays[name] = pa.array(texts, pa.string())
    buffer = io.BytesIO()
    parquet.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()
