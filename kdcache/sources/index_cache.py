"""What is found out about a data set once and kept under KDCACHE_HOME: indexes of tars, listings of
folders.

Nothing depends on it: a file that is absent, damaged or of another version is made anew.
"""

import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.runtime.files import whole_file
from kdcache.runtime.home import home_folder
from kdcache.runtime.text_files import path_bytes, path_text

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

_VERSION = 2
_DIGEST_BYTES = 32
_SETTLED_NS = 10 * 10**9


class Names:
    """Strings in two arrays: a million take their bytes and no objects, also in loader workers."""

    def __init__(self, text: "np.ndarray[Any, np.dtype[Any]]") -> None:
        self.text = text
        """UTF-8, a zero after each."""
        self._ends = np.flatnonzero(text == 0)

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Names":
        """Return the names in `strings`, none of which holds a zero."""
        encoded = path_bytes("".join(f"{string}\0" for string in strings))
        return cls(np.frombuffer(encoded, np.uint8))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return the name at `index`, which is not negative."""
        start = 0
        if index:
            start = int(self._ends[index - 1]) + 1
        return _text(self.text[start : self._ends[index]])

    def __iter__(self) -> Iterator[str]:
        """Yield all, far faster than one by one."""
        return iter(_text(self.text).split("\0")[:-1])


def is_settled(mtimes: Iterable[int]) -> bool:
    """Return whether what has these modification times, in ns, was left alone for some seconds.

    What changes again within one tick of the file system's clock keeps its time, so nothing is kept
    of younger ones.
    """
    return max(mtimes) < time.time_ns() - _SETTLED_NS


def save_arrays(kind: str, identity: str, arrays: Arrays) -> None:
    """Keep `arrays` under a kind and an identity, in a file that appears whole or not at all, if
    the disk takes it."""
    payload = io.BytesIO()
    np.savez(payload, **arrays)  # type: ignore[arg-type] # its other option has no array's name
    data = payload.getvalue()
    path = _path(kind, identity)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, is_synced=False) as file:
            file.write(hashlib.sha256(data).digest() + data)


def load_arrays(kind: str, identity: str) -> Arrays | None:
    """Return the arrays kept under a kind and an identity, or None if there are none or their file
    is damaged."""
    try:
        data = memoryview(_path(kind, identity).read_bytes())
    except OSError:
        return None
    digest = data[:_DIGEST_BYTES]
    payload = data[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        return dict(arrays)


def remove_arrays(kind: str, identity: str) -> None:
    """Remove the arrays kept under a kind and an identity, if there are any."""
    with suppress(OSError):
        _path(kind, identity).unlink()


def remove_all_but_newest(kind: str, most: int) -> None:
    """Remove what is kept of a kind, but for so many of the newest."""
    with suppress(OSError):
        files = sorted((home_folder() / kind).glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-most]:
            file.unlink()


def _path(kind: str, identity: str) -> Path:
    digest = hashlib.sha256(path_bytes(f"{_VERSION} {identity}"))
    name = digest.hexdigest()[:32]
    return home_folder() / kind / f"{name}.npz"


def _text(encoded: "np.ndarray[Any, np.dtype[Any]]") -> str:
    return path_text(encoded.tobytes())
