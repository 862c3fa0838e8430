"""Files that say what is in an image: text of bounded length, many of them at once, and the names
of images in them."""

import os
import posixpath
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from kdcache.errors import SourceError, quoted
from kdcache.runtime.text_files import read_text
from kdcache.runtime.wording import human_bytes

MOST_BYTES = 1 << 20
"""Of a file about one image."""
_THREADS = 16  # on a file server a file takes a while, of which the most is waiting
T = TypeVar("T")
R = TypeVar("R")


def read_annotation(path: str | Path, what: str, most_bytes: int = MOST_BYTES) -> str:
    """Return the text of a file.

    Args:
        path: of the file.
        what: the file is, for messages.
        most_bytes: that it may have.

    Raises:
        UsageError: the file cannot be read, or is no text.
        SourceError: it has more bytes.
    """
    file = Path(path)
    if file.is_file():
        num_bytes = file.stat().st_size
        if num_bytes > most_bytes:
            raise SourceError(
                f"{what} {path} has {human_bytes(num_bytes)}; it may have"
                f" {human_bytes(most_bytes)}: leave out what is not about boxes"
            )
    return read_text(path, what)


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what a function, which reads a file, gives for each of some items."""
    with ThreadPoolExecutor(_THREADS, "kdcache-read") as pool:
        return list(pool.map(function, items))


def is_text(value: object) -> bool:
    """Return whether a value is text that files may be called by."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def checked_path(path: str, where: str) -> str:
    """Return a path below a folder in its shortest form.

    Raises:
        SourceError: it leads out of the folder.
    """
    normal_path = posixpath.normpath(path)
    if normal_path.startswith("/") or normal_path.split("/")[0] in ("..", "."):
        raise SourceError(
            f"{where} is {quoted(path)}; it must be a path below the folder of images"
        )
    return normal_path
