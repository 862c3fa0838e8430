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
from kdcache.sources.tar_reader import Member

Ints = np.ndarray[Any, np.dtype[np.int64]]
Checksums = np.ndarray[Any, np.dtype[np.uint32]]
_MAGIC = b"kdcache index 2\n"
_SHA_BYTES = 32
_NOTHING = Member("", 0, 0)
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
    target_offsets: Ints
    target_sizes: Ints
    """0 where there is none."""
    target_checksums: Checksums

    @classmethod
    def of(cls, index: UnitIndex, data: bytes, sha256: str, stamp: tuple[int, int]) -> "ImageIndex":
        """Return the index of a tar that is in memory and was checked.

        Args:
            index: what the tar holds.
            data: the tar.
            sha256: its digest, as the commit says it.
            stamp: size and time of change of its file before it was read.
        """
        targets = [target or _NOTHING for target in index.targets]
        target_offsets = np.array([target.offset for target in targets], np.int64)
        target_sizes = np.array([target.size for target in targets], np.int64)
        return cls(
            sha256=sha256,
            stamp=stamp,
            keys=Names.of(index.keys),
            extensions=Names.of(index.extensions),
            offsets=index.offsets,
            sizes=index.sizes,
            checksums=_checksums(data, index.offsets, index.sizes),
            target_offsets=target_offsets,
            target_sizes=target_sizes,
            target_checksums=_checksums(data, target_offsets, target_sizes),
        )

    def image(self, at: int) -> Piece | None:
        """Return the image file of row `at` of the unit; None if there is none."""
        return _piece(self.offsets[at], self.sizes[at], self.checksums[at])

    def target(self, at: int) -> Piece | None:
        """Return the target's file of row `at` of the unit; None if there is none."""
        return _piece(self.target_offsets[at], self.target_sizes[at], self.target_checksums[at])

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads back."""
        out = io.BytesIO()
        out.write(_MAGIC + bytes.fromhex(self.sha256) + _STAMP.pack(*self.stamp))
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
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("another kdcache wrote it")
        sha256 = file.read(_SHA_BYTES).hex()
        size, changed = _STAMP.unpack(file.read(_STAMP.size))
        (
            keys,
            extensions,
            offsets,
            sizes,
            checksums,
            target_offsets,
            target_sizes,
            target_checksums,
        ) = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(8))
        return cls(
            sha256=sha256,
            stamp=(size, changed),
            keys=Names(keys),
            extensions=Names(extensions),
            offsets=offsets,
            sizes=sizes,
            checksums=checksums,
            target_offsets=target_offsets,
            target_sizes=target_sizes,
            target_checksums=target_checksums,
        )

    def _arrays(self) -> Iterator[np.ndarray]:
        yield self.keys.text
        yield self.extensions.text
        yield self.offsets
        yield self.sizes
        yield self.checksums
        yield self.target_offsets
        yield self.target_sizes
        yield self.target_checksums


def _piece(offset: np.int64, size: np.int64, checksum: np.uint32) -> Piece | None:
    return Piece(int(offset), int(size), int(checksum)) if size else None


def _checksums(data: bytes, offsets: Ints, sizes: Ints) -> Checksums:
    values = [
        crc32c(data[start : start + size])
        for start, size in zip(offsets.tolist(), sizes.tolist(), strict=True)
    ]
    return np.array(values, np.uint32)
