"""The files that samples are stored in: how large they are, by a stat each, and what they hold."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import SourceError

Numbers = np.ndarray[Any, np.dtype[np.uint32]]
Paths = Sequence[Any]
"""The paths of samples' files as a data set lists them: each a path, or begins with one."""
NO_FILE = 2**32 - 1
"""The size of a file that is not there."""
_THREADS = 16  # a stat on a file server takes a thousand times as long as one on a disk
_AT_ONCE = 4096
_LOOKED_AT = 16
_ABSENT = (FileNotFoundError, NotADirectoryError)


def listed_path(item: Any) -> str | None:
    """Return the path in an entry of a data set's list, which may be a (path, class) pair."""
    first = item
    if isinstance(item, (list, tuple)) and item:
        first = item[0]
    if isinstance(first, (str, Path)):
        return str(first)
    return None


def spread_places(count: int, most: int) -> list[int]:
    """Return the places, of `count`, of at most `most` items that are evenly spread."""
    places = np.linspace(0, count - 1, min(count, most))
    whole_places: list[int] = places.astype(int).tolist()
    return whole_places


def are_files(paths: Paths) -> bool:
    """Return whether paths are those of files: whether one of some that are looked at is."""
    for place in spread_places(len(paths), _LOOKED_AT):
        path = Path(str(listed_path(paths[place])))
        if path.is_file():
            return True
    return False


def stat_sizes(columns: Sequence[Paths]) -> Numbers:
    """Return the bytes of files, uint32 `[samples, columns]`; NO_FILE where there is none.

    Args:
        columns: the paths of each sample's first file, of its second one, and so on.

    Raises:
        SourceError: a file of which it cannot be found out.
    """
    sizes = np.empty((len(columns[0]), len(columns)), np.uint32)

    def look(start: int) -> None:
        for at, column in enumerate(columns):
            items = column[start : start + _AT_ONCE]
            end = start + len(items)
            sizes[start:end, at] = [_size(item) for item in items]

    with ThreadPoolExecutor(_THREADS, "kdcache-stat") as pool:
        for _ in pool.map(look, range(0, len(sizes), _AT_ONCE)):
            pass
    return sizes


def _size(item: Any) -> int:
    path = str(listed_path(item))
    try:
        return min(os.stat(path).st_size, NO_FILE - 1)  # noqa: PTH116 # Path is slow on a million
    except _ABSENT:
        return NO_FILE
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(f"file {path}: {reason}; its size cannot be compared") from error
