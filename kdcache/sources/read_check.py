"""That a data set was read whole once, kept under KDCACHE_HOME, so that it is paid once."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kdcache.sources import Source
from kdcache.sources.index_cache import is_settled, load_arrays, save_arrays
from kdcache.sources.protocol import Filed

_KIND = "read"
_THREADS = 16  # a stat on a network file system takes a while, of which the most is waiting


class ReadCheck:
    """Knows whether every sample of a data set was read before, from the same files.

    Of data without files nothing is known or kept: nothing would tell that it has changed.
    """

    def __init__(self, source: Source) -> None:
        self._identity = f"{source.spec} {source.fingerprint}"
        self._files = listed_files(source)
        self._stamps = np.empty((0, 2), np.int64)

    def is_known(self) -> bool:
        """Return whether it was; its files must have the size and the time of then."""
        if not self._files:
            return False
        self._stamps = _stamps(self._files)
        arrays = load_arrays(_KIND, self._identity)
        return arrays is not None and np.array_equal(arrays["stamps"], self._stamps)

    def keep(self) -> None:
        """Keep that it was, of the files as they were when `is_known` looked."""
        mtimes = self._stamps[:, 1].tolist()
        if mtimes and is_settled(mtimes):
            save_arrays(_KIND, self._identity, {"stamps": self._stamps})


def listed_files(source: Source) -> list[str]:
    """Return the files that a source reads samples from; none where it does not list them."""
    if not isinstance(source, Filed):
        return []
    return list(source.files())


def _stamps(files: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return size and time in ns of each file, int64 `[files, 2]`; of one that is gone -1."""
    shares = [files[start::_THREADS] for start in range(_THREADS)]
    stamps = np.empty((len(files), 2), np.int64)
    with ThreadPoolExecutor(_THREADS, "kdcache-stat") as pool:
        for start, share_stamps in enumerate(pool.map(_stamps_of, shares)):
            rows = np.array(share_stamps, np.int64)
            stamps[start::_THREADS] = rows.reshape(-1, 2)
    return stamps


def _stamps_of(files: Sequence[str]) -> list[tuple[int, int]]:
    stamps = []
    for path in files:
        try:
            status = os.stat(path)  # noqa: PTH116 # of a million
            stamps.append((status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append((-1, -1))
    return stamps
