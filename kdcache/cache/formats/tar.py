"""A unit of records of several seeds <-> the bytes of one webdataset tar, with or without the
images.

Of each row, in row order: `KEY.<image extension>` and its target (`KEY.cls`, of segmentation
`KEY.mask.png`), if the store holds images and this one could be read, and `KEY.records.npy`, uint8
`[seeds, record bytes]`. KEY is the sample's name in the source with all but letters, digits, `_`,
`-` and `~` percent-encoded, so that it holds neither dots, at which webdataset would cut it, nor
slashes. Times, owners and modes are fixed: equal content is equal bytes.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from kdcache.cache.documents.limits import MOST_OBJECT
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.formats.protocol import Bytes, StoredSample, named_unit
from kdcache.cache.storage.protocol import Storage
from kdcache.errors import brief, quoted
from kdcache.runtime.text_files import path_bytes, path_text
from kdcache.shapes import Records, Rows
from kdcache.sources.tar_index import IMAGES
from kdcache.sources.tar_reader import END, Member, TarReader
from kdcache.targets import TargetKind, target_kind

RECORDS = "records.npy"
_BLOCK = 512
_MOST_HEADERS = 3
"""Blocks of a member's header: one, and two before it if its name is too long for one."""


UNIQUE_KEYS = "tars name files by keys: give each sample its own key, or take a zarr store"
"""What a user can do about samples that share a key."""


class UnitIndex(NamedTuple):
    """What a unit's tar holds, by position of the row in the unit."""

    keys: list[str]
    """Names of the samples in the source."""
    extensions: list[str]
    offsets: Rows
    """Of the encoded images, bytes from the start; 0 where there is none."""
    sizes: Rows
    targets: list[Member | None]
    records: list[Member]


@dataclass(frozen=True)
class TarFormat:
    """Shape of the units of a webdataset store, as the manifest gives them."""

    rows: int
    unit_rows: int
    seeds: int
    dtype: "np.dtype[Any]"
    has_images: bool
    target: TargetKind
    """Of the images."""

    @classmethod
    def of(cls, manifest: Manifest) -> "TarFormat":
        """Return the format of a cache."""
        return cls(
            manifest.rows,
            manifest.unit_rows,
            manifest.seeds_per_unit,
            manifest.dtype,
            manifest.has_images,
            target_kind(manifest.task),
        )

    def key(self, seed: int, unit: int) -> str:
        """Return the key of the tar that holds one unit; `seed` is its first."""
        last_seed = seed + self.seeds - 1
        return f"shards/{seed:05d}-{last_seed:05d}/{unit:06d}.tar"

    def unit_of(self, key: str) -> tuple[int, int] | None:
        """Return the first seed and the number of the unit whose tar has this key; None of other
        keys."""
        unit = named_unit(key, r"shards/([0-9]{5,10})-[0-9]{5,10}/([0-9]{6,10})\.tar", self.key)
        if unit is None:
            return None
        first_seed, _ = unit
        if first_seed % self.seeds != 0:
            return None
        return unit

    def most_bytes(self, unit: int) -> int:
        """Return the bytes of a tar of records, whose names are as long as they may be; with
        images the bound of any object."""
        if self.has_images:
            return MOST_OBJECT
        payload = len(self._npy_header) + self._row_bytes
        row_blocks = _MOST_HEADERS + -(-payload // _BLOCK)
        return self._num_rows(unit) * row_blocks * _BLOCK + END

    @property
    def _row_bytes(self) -> int:
        """Bytes of the records of a row, one of each seed."""
        return self.seeds * self.dtype.itemsize

    def _num_rows(self, unit: int) -> int:
        first = unit * self.unit_rows
        return min(self.unit_rows, self.rows - first)

    def metadata(self, seed: int) -> dict[str, bytes]:
        """Return nothing: tars need nothing beside them."""
        return {}

    def faults(self, storage: Storage, seed: int) -> list[str]:
        """Return nothing: tars need nothing beside them."""
        return []

    def encode(self, unit: int, records: Records, samples: Sequence[StoredSample] = ()) -> bytes:
        """Return the tar of `records`, `[seeds, rows]`, and the samples of its rows.

        Raises:
            ValueError: a sample's name that is too long for a file name, or that another one has.
        """
        _require_unique(samples)
        raw = np.ascontiguousarray(records).view(np.uint8)
        by_seed = raw.reshape(self.seeds, -1, self.dtype.itemsize)
        by_row = by_seed.swapaxes(0, 1)
        assert len(by_row) == len(samples), "a webdataset store names each row"
        out = io.BytesIO()
        for sample, row in zip(samples, by_row, strict=True):
            name = member_name(sample.key)
            if self.has_images and sample.image:
                _add(out, f"{name}.{sample.extension}", sample.image)
                _add(out, f"{name}.{self.target.suffix}", sample.target)
            _add(out, f"{name}.{RECORDS}", self._npy_header + row.tobytes())
        out.write(bytes(END))  # two empty blocks, as POSIX has it, and no more
        return out.getvalue()

    def decode(self, unit: int, data: bytes, out: Bytes) -> None:
        """Write the records in the tar of `unit` into `out`, uint8 `[seeds, rows, bytes of a
        record]`.

        Raises:
            ValueError: bytes that are no such tar.
        """
        self.decode_tar(unit, TarReader.of(data), out)

    def decode_tar(self, unit: int, tar: TarReader, out: Bytes) -> None:
        """Do as `decode` does, with a tar that need not be in memory: images are not read.

        Raises:
            ValueError: it is no such tar.
        """
        header = self._npy_header
        start = len(header)
        size = self._row_bytes
        index = self.index(unit, tar)
        for row, member in enumerate(index.records):
            data = b""
            if member.size == start + size:
                data = tar.read(member.offset, member.size)
            if not data.startswith(header):
                raise ValueError(
                    f"member {brief(member.name)} is not uint8 [{self.seeds},"
                    f" {self.dtype.itemsize}] as numpy saves it"
                )
            records = np.frombuffer(data, np.uint8, size, start)
            out[:, row] = records.reshape(self.seeds, -1)

    def samples(self, unit: int, data: bytes) -> list[StoredSample]:
        """Return the samples in the tar of `unit`, in the order of the rows.

        Raises:
            ValueError: bytes that are no such tar.
        """
        index = self.index(unit, TarReader.of(data))
        samples: list[StoredSample] = []
        for row, key in enumerate(index.keys):
            extension = index.extensions[row]
            start = index.offsets[row]
            stop = start + index.sizes[row]
            target = _bytes_of(index.targets[row], data)
            samples.append(StoredSample(key, extension, data[start:stop], target))
        return samples

    def index(self, unit: int, tar: TarReader) -> UnitIndex:
        """Return what the tar of `unit` holds.

        Raises:
            ValueError: it is not such a tar: cut short, damaged, members in another order, or not
                one of each row.
        """
        num_rows = self._num_rows(unit)
        offsets = np.zeros(num_rows, np.int64)
        sizes = np.zeros(num_rows, np.int64)
        index = UnitIndex([], [], offsets, sizes, [], [])
        for name, members in _by_row(tar):
            key = _own_key(name, members[0])
            row = len(index.keys)
            if row == num_rows:
                raise ValueError(f"it holds more than {num_rows} rows")
            *sample, records = members
            extension = ""
            target = None
            if sample:
                extension = self._extension(sample)
                image, target = sample
                offsets[row] = image.offset
                sizes[row] = image.size
                self._check_target(target, tar)
            index.extensions.append(extension)
            index.targets.append(target)
            index.keys.append(key)
            index.records.append(records)
        if len(index.keys) < num_rows:
            raise ValueError(f"it holds {len(index.keys)} rows, not {num_rows}")
        if len(set(index.keys)) < num_rows:
            raise ValueError("a key comes twice in it")
        return index

    def _extension(self, members: list[Member]) -> str:
        """Return the extension of a row's image, if these are an image and its target."""
        suffixes = [member.name.partition(".")[2] for member in members]
        # plain readers decode by extension, and webdataset's unpickle KEY.pkl
        is_image = suffixes[0] in IMAGES
        is_sample = is_image and suffixes[1:] == [self.target.suffix]
        if not self.has_images or not is_sample:
            raise ValueError(f"member {brief(members[0].name)} is none that belongs there")
        return suffixes[0]

    def _check_target(self, member: Member, tar: TarReader) -> None:
        """Raise a ValueError if what a target is can be told to be wrong at once."""
        if not self.target.is_small:
            return
        try:
            self.target.check_stored(tar.text(member))
        except ValueError as error:
            raise ValueError(f"member {brief(member.name)} {error}") from error

    @cached_property
    def _npy_header(self) -> bytes:
        out = io.BytesIO()
        shape = (self.seeds, self.dtype.itemsize)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        return out.getvalue()


def member_name(key: str) -> str:
    """Return the name in a tar of the sample that is called `key`.

    Raises:
        ValueError: it is too long for a file name.
    """
    name = quote(path_bytes(key), safe="").replace(".", "%2E")
    if len(name) > 240:
        raise ValueError(
            f"sample {quoted(key)} has a name too long for a file in a tar; at most 240 bytes,"
            " percent-encoded"
        )
    return name


def sample_key(name: str) -> str:
    """Return the sample whose name in a tar is `name`."""
    return path_text(unquote_to_bytes(name))


def _bytes_of(member: Member | None, data: bytes) -> bytes:
    """Return the bytes of a member of a tar that is in memory; none if there is no member."""
    if member is None:
        return b""
    return data[member.offset : member.offset + member.size]


def _own_key(name: str, member: Member) -> str:
    """Return the sample that a row's name is of.

    Raises:
        ValueError: it is no name that this store gives, as its first member tells.
    """
    key = sample_key(name)
    if member_name(key) != name or "\0" in key:  # which separates names of the index
        raise ValueError(
            f"member {brief(member.name)} is not named as this store names its members"
        )
    return key


def _require_unique(samples: Sequence[StoredSample]) -> None:
    """Raise a ValueError if two samples have one key: no reader could tell their files apart."""
    keys: set[str] = set()
    for sample in samples:
        if sample.key in keys:
            raise ValueError(f"two samples have the key {quoted(sample.key)}; {UNIQUE_KEYS}")
        keys.add(sample.key)


def _by_row(tar: TarReader) -> Iterator[tuple[str, list[Member]]]:
    """Yield each row's name and members, of which the last are its records."""
    members: list[Member] = []
    row_name = ""
    for member in tar.members(is_own=True):
        name, _, suffix = member.name.partition(".")
        if not members:
            row_name = name
        members.append(member)
        if name != row_name or not name or len(members) > 3:
            raise ValueError(f"member {brief(member.name)} is none that belongs there")
        if suffix == RECORDS:
            yield name, members
            members = []
    if members:
        raise ValueError(f"member {brief(members[-1].name)} is not followed by {RECORDS}")


def _add(out: io.BytesIO, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    member.mtime = 0
    out.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
    out.write(data)
    out.write(bytes(-len(data) % _BLOCK))
