"""Columns of Parquet files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.config.names import choose
from kdcache.errors import SourceError
from kdcache.runtime.user_code import exception_text


def require_pyarrow() -> None:
    """Check that Parquet files can be read and written.

    Raises:
        SourceError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401, PLC0415
    except ImportError as error:
        raise SourceError(
            "a Parquet file needs pyarrow; pip install 'kdcache[hub]', or use a CSV file"
        ) from error


def holds_images(path: str) -> bool:
    """Return whether a Parquet file has a column of images themselves, as Hugging Face data sets
    have.

    Raises:
        SourceError: pyarrow is not installed, or the file is none.
    """
    schema = _opened(path).schema_arrow
    for field in schema:
        names = {child.name for child in field.flatten()}
        if {f"{field.name}.bytes", f"{field.name}.path"} <= names:
            return True
    return False


def read_parquet(path: str, columns: Sequence[str]) -> list[list[Any]]:
    """Return columns of a Parquet file as values of Python; None where there is none.

    Raises:
        SourceError: pyarrow is not installed, or the file cannot be read.
        UsageError: it has no such column; the nearest is suggested.
    """
    file = _opened(path)
    names = file.schema_arrow.names
    for column in columns:
        choose(column, names, f"column of {path}")
    with _reading(path):
        table = file.read(columns=list(columns))
        return [table[column].to_pylist() for column in columns]


def check_columns(path: str, columns: Sequence[str]) -> None:
    """Check that a Parquet file has some columns; nothing of them is read.

    Raises:
        SourceError: pyarrow is not installed, or the file is none.
        UsageError: it has no such column; the nearest is suggested.
    """
    names = _opened(path).schema_arrow.names
    for column in columns:
        choose(column, names, f"column of {path}")


def _opened(path: str) -> Any:
    require_pyarrow()
    from pyarrow import parquet  # noqa: PLC0415

    with _reading(path):
        return parquet.ParquetFile(Path(path))


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of pyarrow, which raises what it comes upon
        reason = exception_text(error)
        raise SourceError(f"{path} cannot be read as Parquet ({reason}); make it anew") from error
