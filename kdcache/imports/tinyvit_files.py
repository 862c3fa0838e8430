"""The files of labels that TinyViT's program writes: a folder for each epoch, and in it two files
for each of its processes.

`rankR-keys.txt` has a key a line, that of a sample, and `rankR-values.bin` an entry for each of
them, in the same order, all of one size.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError, quoted
from kdcache.models.weight_formats import AGAIN
from kdcache.runtime.files import plain_bytes

_EPOCH = re.compile(r"logits_top(\d{1,6})_epoch(0|[1-9]\d{0,8})")
_RANK = re.compile(r"rank(\d{1,6})-(keys\.txt|values\.bin)")
_MOST_KEY = 256
Names = np.ndarray[Any, np.dtype[Any]]


class SampleKeys:
    """The keys of the samples of some data."""

    def __init__(self, keys: Sequence[str], *, is_complete: bool) -> None:
        """Order the keys.

        Args:
            keys: of each sample.
            is_complete: whether files may have no others.

        Raises:
            CacheError: two samples have one.
        """
        self.keys = keys
        self._is_complete = is_complete
        names = np.array([key.encode() for key in keys], np.bytes_)
        self._order = np.argsort(names, kind="stable")
        self._sorted = names[self._order]
        doubles = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(doubles):
            name = self._sorted[doubles[0]].decode()
            raise CacheError(
                f"two images of the data are called {quoted(name)}, and labels go by the name of"
                " an image alone; give the data that they were made of"
            )

    def samples(self, names: Names, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return which of some keys the data have, and of these the samples.

        Raises:
            CacheError: the data lack one, and must have all.
        """
        places = np.searchsorted(self._sorted, names)
        places = np.minimum(places, len(self._sorted) - 1)
        is_known = self._sorted[places] == names
        if self._is_complete and not is_known.all():
            other = names[~is_known][0].decode(errors="replace")
            raise CacheError(
                f"file {path} has the key {quoted(other)}, and the data have {len(self.keys)}"
                " samples, numbered from 0; give all images that the labels are of, and check"
                " DATA.DATASET of the configuration"
            )
        return np.flatnonzero(is_known), self._order[places[is_known]]


class Epoch:
    """A folder of labels: of each sample one entry."""

    def __init__(self, folder: Path, num_labels: int, keys: SampleKeys) -> None:
        self.folder = folder
        self._entry_bytes = entry_type(num_labels).itemsize
        self._keys = keys

    def entry(self, sample: int) -> bytes | None:
        """Return the entry of a sample; None if it has none.

        Raises:
            CacheError: files that cannot be read, or do not go together.
        """
        ranks, places = self._index
        rank = ranks[sample]
        if rank < 0:
            return None
        path = self._value_files[rank]
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(places[sample]) * self._entry_bytes)
                entry: bytes = file.read(self._entry_bytes)
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(entry) != self._entry_bytes:
            raise CacheError(f"file {path} has become shorter; {AGAIN}")
        return entry

    @cached_property
    def _value_files(self) -> list[Path]:
        """The files of entries, by rank.

        Raises:
            CacheError: there are none, or one lacks its keys.
        """
        found: dict[str, set[int]] = {"keys.txt": set(), "values.bin": set()}
        for path in self.folder.iterdir():
            match = _RANK.fullmatch(path.name)
            if match is not None:
                found[match[2]].add(int(match[1]))
        for rank in sorted(found["keys.txt"] ^ found["values.bin"]):
            raise CacheError(
                f"folder {self.folder} has only one of rank{rank}-keys.txt and"
                f" rank{rank}-values.bin; {AGAIN}"
            )
        if not found["keys.txt"]:
            raise CacheError(f"folder {self.folder} has no rank0-keys.txt, nor any other; {AGAIN}")
        return [self.folder / f"rank{rank}-values.bin" for rank in sorted(found["keys.txt"])]

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each sample the number of its file, -1 if there is none, and which entry it is.

        Samples that two processes were given have one in each, of which either would do: the first
        is taken.
        """
        ranks = np.full(len(self._keys.keys), -1, np.int32)
        places = np.zeros(len(self._keys.keys), np.int32)
        for rank, path in reversed([*enumerate(self._value_files)]):
            lines, samples = self._keys.samples(self._names(path), path)
            ranks[samples] = rank
            places[samples] = lines
        return ranks, places

    def _names(self, values: Path) -> Names:
        """Return the keys of a file of entries.

        Raises:
            CacheError: they cannot be read, or are not as many.
        """
        path = values.with_name(values.name.replace("values.bin", "keys.txt"))
        try:
            lines = [line.strip() for line in plain_bytes(path).splitlines()]
            size = values.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        if max(map(len, lines), default=0) > _MOST_KEY:
            raise CacheError(f"file {path} has a line of more than {_MOST_KEY} bytes; {AGAIN}")
        if size != len(lines) * self._entry_bytes:
            raise CacheError(
                f"file {values} has {size} bytes, and {len(lines)} keys of {self._entry_bytes}"
                f" bytes each stand in {path.name}; {AGAIN}"
            )
        return np.array(lines, np.bytes_)


def entry_type(num_labels: int) -> np.dtype[Any]:
    """Return what an entry holds: the seed of the view, classes, and their probabilities."""
    return np.dtype(
        [
            ("seed", "<i4"),
            ("classes", "<i2", (num_labels,)),
            ("probabilities", "<f2", (num_labels,)),
        ]
    )


def epoch_folders(folder: Path) -> tuple[list[Path], int]:
    """Return the folders of all epochs in order, and the number of labels of a view.

    Args:
        folder: that of one epoch, or that holds them.

    Raises:
        CacheError: there are none, or of two kinds.
    """
    by_epoch: dict[tuple[int, int], Path] = {}
    candidates = [folder.resolve()]
    if _EPOCH.fullmatch(candidates[0].name) is None:
        try:
            candidates = [path for path in folder.iterdir() if path.is_dir()]
        except OSError as error:
            raise _unreadable(folder, error) from error
    for path in candidates:
        match = _EPOCH.fullmatch(path.name)
        if match is not None and int(match[1]):
            by_epoch[int(match[1]), int(match[2])] = path
    if not by_epoch:
        raise CacheError(
            f"folder {folder} holds no folder such as logits_top100_epoch0; give the one that"
            " TinyViT's save_logits.py wrote, its DISTILL.TEACHER_LOGITS_PATH"
        )
    kinds = sorted({num_labels for num_labels, _ in by_epoch})
    if len(kinds) > 1:
        raise CacheError(
            f"folder {folder} holds epochs of {kinds[0]} labels a view, and of {kinds[1]}; give a"
            " folder with epochs of one kind"
        )
    return [by_epoch[key] for key in sorted(by_epoch)], kinds[0]


def _unreadable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path} cannot be read: {error.strerror or error}")
