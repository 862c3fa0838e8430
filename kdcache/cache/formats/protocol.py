"""How the records of a unit become one object: what the stores of zarr shards and of webdataset
tars have in common."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.storage.protocol import Storage
from kdcache.shapes import Records

Unit = tuple[int, int]
"""The first seed of a unit, and its number."""
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_COMMIT = r"commits/([0-9]{5,10})/([0-9]{6,10})\.json"


class StoredSample(NamedTuple):
    """A sample as it goes into a store that holds samples, too."""

    key: str
    """Its name in the source."""
    extension: str = ""
    """That of an image file: jpg, png, ..."""
    image: bytes = b""
    """The encoded image; empty if it could not be read, or is not wanted."""
    target: bytes = b""
    """Its class index in decimal digits, or its mask as a PNG."""


@runtime_checkable
class UnitFormat(Protocol):
    """Turns a unit into an object and back."""

    def key(self, seed: int, unit: int) -> str:
        """Return the key of the object that holds a unit; `seed` is its first."""

    def unit_of(self, key: str) -> Unit | None:
        """Return the first seed and the number of the unit whose object has this key; None of other
        keys."""

    def most_bytes(self, unit: int) -> int:
        """Return the bytes that the object of a unit has at most: a larger one is refused by its
        size alone."""

    def metadata(self, seed: int) -> dict[str, bytes]:
        """Return the objects beside the units of a seed that plain readers need."""

    def faults(self, storage: Storage, seed: int) -> list[str]:
        """Return what keeps plain readers from reading a seed, one line each."""

    def encode(self, unit: int, records: Records, samples: Sequence[StoredSample] = ()) -> bytes:
        """Return the object of `records`, `[seeds, rows]`, with the samples of the rows if this
        store holds them."""

    def samples(self, unit: int, data: bytes) -> list[StoredSample]:
        """Return the samples in an object; none of a store that holds none.

        Raises:
            ValueError: bytes that are no such object.
        """

    def decode(self, unit: int, data: bytes, out: Bytes) -> None:
        """Write the records in an object into `out`, uint8 `[seeds, rows, bytes of a record]`.

        Raises:
            ValueError: bytes that are no such object.
        """


def committed_unit(manifest: Manifest, key: str) -> Unit | None:
    """Return the first seed and the number of the unit whose commit has this key, or None if it is
    the key of none."""
    unit = named_unit(key, _COMMIT, commit_key)
    if unit is None:
        return None
    seed, _ = unit
    if manifest.unit_seeds(seed)[0] != seed:
        return None
    return unit


def named_unit(key: str, pattern: str, make: Callable[[int, int], str]) -> Unit | None:
    """Return the two numbers that `pattern` finds in `key`, if it is the key that `make` gives for
    them."""
    match = re.fullmatch(pattern, key)
    if match is None:
        return None
    seed = int(match[1])
    unit = int(match[2])
    if make(seed, unit) != key:
        return None
    return seed, unit
