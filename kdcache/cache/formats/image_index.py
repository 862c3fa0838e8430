"""What a unit's tar holds beside its records: where the images and targets lie, and their
checksums.

It is made of bytes that were just compared with the commit, and kept on this machine. Whoever reads
an image later compares it with the checksum: a tar that was changed since is noticed at no cost, in
every loader worker and in every epoch.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google_crc32c import value as crc32c

from kdcache.cache.formats.tar import UnitIndex
from kdcache.sources.index_cache import Names
from kdcache.sources.tar_reader import Member

Ints = np.ndarray[Any, np.dtype[np.int64]]
Checksums = np.ndarray[Any, np.dtype[np.uint32]]
_MAGIC = b"kdcache index 3\n"
_SHA_BYTES = 32
_STAMP = struct.Struct("<qq")
_LENGTH = struct.Struct("<q")


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
        target_offsets, target_sizes = _places(index.targets)
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

    def image(self, position: int) -> Piece | None:
        """Return the image file of a row of the unit; None if there is none."""
        return _piece(self.offsets[position], self.sizes[position], self.checksums[position])

    def target(self, position: int) -> Piece | None:
        """Return the target's file of a row of the unit; None if there is none."""
        return _piece(
            self.target_offsets[position],
            self.target_sizes[position],
            self.target_checksums[position],
        )

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads back."""
        out = io.BytesIO()
        out.write(_MAGIC)
        out.write(bytes.fromhex(self.sha256))
        out.write(_STAMP.pack(*self.stamp))
        for array in self._arrays():
            out.write(_LENGTH.pack(array.nbytes))
            out.write(array.tobytes())
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ImageIndex":
        """Return the index that `to_bytes` gave.

        No `.npy` is in it: their headers are parsed as Python, which fails at times where several
        threads do it (CPython's issue 106905), and several read indexes.

        Raises:
            ValueError, struct.error: it is no such index.
        """
        file = io.BytesIO(data)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("another kdcache wrote it")
        # read in the order of the arguments, which is that of the file
        return cls(
            sha256=file.read(_SHA_BYTES).hex(),
            stamp=_STAMP.unpack(file.read(_STAMP.size)),
            keys=Names(_next_array(file, np.uint8)),
            extensions=Names(_next_array(file, np.uint8)),
            offsets=_next_array(file, np.int64),
            sizes=_next_array(file, np.int64),
            checksums=_next_array(file, np.uint32),
            target_offsets=_next_array(file, np.int64),
            target_sizes=_next_array(file, np.int64),
            target_checksums=_next_array(file, np.uint32),
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


def _places(members: Sequence[Member | None]) -> tuple[Ints, Ints]:
    """Return where members begin and their sizes; zeros where there is none."""
    offsets = np.zeros(len(members), np.int64)
    sizes = np.zeros(len(members), np.int64)
    for position, member in enumerate(members):
        if member is not None:
            offsets[position] = member.offset
            sizes[position] = member.size
    return offsets, sizes


def _next_array(file: io.BytesIO, dtype: type[np.generic]) -> Any:
    """Return the next array of an index; what is shorter than it says is a ValueError or a
    struct.error."""
    (num_bytes,) = _LENGTH.unpack(file.read(_LENGTH.size))
    data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError(f"an array of {num_bytes} bytes has {len(data)}")
    return np.frombuffer(data, dtype)


def _piece(offset: np.int64, size: np.int64, checksum: np.uint32) -> Piece | None:
    if not size:
        return None
    return Piece(int(offset), int(size), int(checksum))


def _checksums(data: bytes, offsets: Ints, sizes: Ints) -> Checksums:
    """Return the crc32c of the parts of a tar at these places."""
    checksums = np.zeros(len(offsets), np.uint32)
    places = zip(offsets.tolist(), sizes.tolist(), strict=True)
    for position, (start, size) in enumerate(places):
        checksums[position] = crc32c(data[start : start + size])
    return checksums
