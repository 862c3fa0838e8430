"""What a unit's tar holds beside its records: where the images and targets lie, and their
checksums.

It is made of bytes that were just compared with the commit, and kept on this machine. Whoever reads
an image later compares it with the checksum: a tar that was changed since is noticed at no cost, in
every loader worker and in every epoch.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from kdcache.cache.formats.tar import UnitIndex
from kdcache.sources.index_cache import Names

Ints = np.ndarray[Any, np.dtype[np.int64]]
Checksums = np.ndarray[Any, np.dtype[np.uint32]]
_SHA_BYTES = 32
_STAMP = struct.Struct("<qq")


class Piece(NamedTuple):
    """Bytes of a tar, with the checksum that they had when the tar was checked."""

    offset: int
    size: int
    checksum: int

    def is_of(self, data: bytes) -> bool:
        """Return whether `data` are these bytes."""
        return len(data) == self.size and crc32c(data) == self.checksum


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The samples in a unit's tar, by position of the row in the unit."""

    sha256: str
    """Of the tar."""
    stamp: tuple[int, int]
    """Size and time of change in ns of the tar's file when it was checked; zeros of a copy, which
    is checked each time."""
    keys: Names
    """Names of the samples in the source."""
    extensions: Names
    """Of the image files; empty where there is none."""
    offsets: Ints
    """Of the encoded images, bytes from the start; 0 where there is none."""
    sizes: Ints
    checksums: Checksums
    """crc32c of the encoded images."""
    labels: Ints
    """-1 where there is none."""
    mask_offsets: Ints
    mask_sizes: Ints
    """0 where there is no mask."""
    mask_checksums: Checksums

    @classmethod
    def of(cls, index: UnitIndex, data: bytes, sha256: str, stamp: tuple[int, int]) -> "ImageIndex":
        """Return the index of a tar that is in memory and was checked.

        Args:
            index: what the tar holds.
            data: the tar.
            sha256: its digest, as the commit says it.
            stamp: size and time of change of its file before it was read.
        """
        mask_offsets = np.array([mask.offset if mask else 0 for mask in index.masks], np.int64)
        mask_sizes = np.array([mask.size if mask else 0 for mask in index.masks], np.int64)
        return cls(
            sha256=sha256,
            stamp=stamp,
            keys=Names.of(index.keys),
            extensions=Names.of(index.extensions),
            offsets=index.offsets,
            sizes=index.sizes,
            checksums=_checksums(data, index.offsets, index.sizes),
            labels=index.labels,
            mask_offsets=mask_offsets,
            mask_sizes=mask_sizes,
            mask_checksums=_checksums(data, mask_offsets, mask_sizes),
        )

    def image(self, at: int) -> Piece | None:
        """Return the image file of row `at` of the unit; None if there is none."""
        return _piece(self.offsets[at], self.sizes[at], self.checksums[at])

    def mask(self, at: int) -> Piece | None:
        """Return the mask file of row `at` of the unit; None if there is none."""
        return _piece(self.mask_offsets[at], self.mask_sizes[at], self.mask_checksums[at])

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads back."""
        out = io.BytesIO()
        out.write(bytes.fromhex(self.sha256) + _STAMP.pack(*self.stamp))
        for array in self._arrays():
            np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=False)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ImageIndex":
        """Return the index that `to_bytes` gave.

        Raises:
            ValueError: it is no such index.
        """
        file = io.BytesIO(data)
        sha256 = file.read(_SHA_BYTES).hex()
        size, changed = _STAMP.unpack(file.read(_STAMP.size))
        (
            keys,
            extensions,
            offsets,
            sizes,
            checksums,
            labels,
            mask_offsets,
            mask_sizes,
            mask_checksums,
        ) = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(9))
        return cls(
            sha256=sha256,
            stamp=(size, changed),
            keys=Names(keys),
            extensions=Names(extensions),
            offsets=offsets,
            sizes=sizes,
            checksums=checksums,
            labels=labels,
            mask_offsets=mask_offsets,
            mask_sizes=mask_sizes,
            mask_checksums=mask_checksums,
        )

    def _arrays(self) -> Iterator[np.ndarray]:
        yield self.keys.text
        yield self.extensions.text
        yield self.offsets
        yield self.sizes
        yield self.checksums
        yield self.labels
        yield self.mask_offsets
        yield self.mask_sizes
        yield self.mask_checksums


def _piece(offset: np.int64, size: np.int64, checksum: np.uint32) -> Piece | None:
    return Piece(int(offset), int(size), int(checksum)) if size else None


def _checksums(data: bytes, offsets: Ints, sizes: Ints) -> Checksums:
    values = [
        crc32c(data[start : start + size])
        for start, size in zip(offsets.tolist(), sizes.tolist(), strict=True)
    ]
    return np.array(values, np.uint32)
