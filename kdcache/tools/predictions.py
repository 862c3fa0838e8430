"""What a model says of images, as lines of a table."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.runtime.files import write_file
from kdcache.runtime.text_files import path_bytes

_DIGITS = 6


@dataclass
class Predictions:
    """The likeliest classes of images, a line each."""

    class_names: Sequence[str]
    """Of all classes of the model."""
    keys: list[str] = field(default_factory=list)
    """Of the images."""
    classes: list[np.ndarray[Any, np.dtype[np.int64]]] = field(default_factory=list)
    """Of each image, the likeliest first, `[top]`."""
    probabilities: list[np.ndarray[Any, np.dtype[np.float32]]] = field(default_factory=list)
    """Of these classes, `[top]`."""

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        names = ["key"]
        for place in range(1, 1 + self._num_shown):
            names += [f"class_{place}", f"probability_{place}"]
        return names

    def rows(self) -> Iterator[list[str]]:
        """Yield the lines of the table, as texts."""
        for key, classes, probabilities in zip(
            self.keys, self.classes, self.probabilities, strict=True
        ):
            row = [key]
            for number, probability in zip(classes, probabilities, strict=True):
                row += [self.class_names[number], f"{probability:.{_DIGITS}f}"]
            yield row

    @property
    def _num_shown(self) -> int:
        if not self.classes:
            return 0
        return len(self.classes[0])

    def write_csv(self, path: Path) -> None:
        """Write the table as comma-separated values in UTF-8, with the names of the columns.

        Raises:
            KdcacheError: the file cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns())
        writer.writerows(self.rows())
        write_file(path, path_bytes(text.getvalue()))

    def write_parquet(self, path: Path) -> None:
        """Write the table as Parquet, with probabilities as float32.

        Raises:
            KdcacheError: the file cannot be written.
        """
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        # a name on disk may be of bytes that are no text, which Parquet does not take
        keys = [path_bytes(key).decode(errors="replace") for key in self.keys]
        columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
        for place in range(self._num_shown):
            names = [self.class_names[classes[place]] for classes in self.classes]
            numbers = [values[place] for values in self.probabilities]
            columns[f"class_{place + 1}"] = pa.array(names, pa.string())
            columns[f"probability_{place + 1}"] = pa.array(numbers, pa.float32())
        buffer = io.BytesIO()
        parquet.write_table(pa.table(columns), buffer)
        write_file(path, buffer.getvalue())
