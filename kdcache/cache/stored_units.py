"""The objects of a cache's units: read, checked against their commits, and decoded into records."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from kdcache.cache.committed_units import CommittedUnits
from kdcache.cache.documents.commit import Commit, commit_key
from kdcache.cache.formats.protocol import Bytes, StoredSample
from kdcache.cache.formats.tar import TarFormat
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.rereading import read_twice
from kdcache.codecs import check_records, codec_from_dict
from kdcache.errors import CodecError, DamagedUnitError, LargeObjectError
from kdcache.positions import One
from kdcache.shapes import Records
from kdcache.sources.tar_reader import TarReader

Fetch = Callable[[Commit], bytes]
"""Returns the bytes of a committed unit, after they were checked against the commit."""
_LARGE = 1 << 24
"""Bytes of an object that is looked through before it is read into memory; several are read at
once."""


class StoredUnits(CommittedUnits):
    """The units of a cache, whose objects can be read."""

    def unit_bytes(self, commit: Commit) -> bytes:
        """Return the object of a committed unit, after it was checked against the commit.

        Raises:
            DamagedUnitError: it is absent, or differs from what was committed in any byte.
        """
        return read_twice(lambda is_fresh: self._checked_content(commit, is_fresh))

    def _checked_content(self, commit: Commit, is_fresh: bool) -> bytes:
        where, way_out = self._where(commit)
        try:
            data = self._content(commit, is_fresh)
        except LargeObjectError as error:
            raise DamagedUnitError(
                f"{where}: more bytes than were committed: {error}; {way_out}"
            ) from None
        except FileNotFoundError:
            raise DamagedUnitError(
                f"{where}: the object {commit.key} is missing; {way_out}"
            ) from None
        if len(data) != commit.num_bytes:
            raise self._wrong_size(commit, len(data))
        if not commit.is_of(data):
            raise self._wrong_bytes(commit)
        return data

    def _content(self, commit: Commit, is_fresh: bool) -> bytes:
        key = self.format.key(self._first_of(commit.seed), commit.unit)
        most = min(commit.num_bytes, self.format.most_bytes(commit.unit))
        if most <= _LARGE:
            return self.storage.get(key, most=most, is_fresh=is_fresh)
        with self.storage.blocks(key, most=most, is_fresh=is_fresh) as blocks:
            self._compare(commit, blocks)
            return blocks.read(0, blocks.size)

    def _compare(self, commit: Commit, blocks: Blocks) -> None:
        """Compare a large object with its commit while little of it is in memory.

        Raises:
            DamagedUnitError: it is another, or no such object.
        """
        if blocks.size != commit.num_bytes:
            raise self._wrong_size(commit, blocks.size)
        self.look_through(commit.unit, blocks, self._place(commit))
        if blocks.sha256() != commit.sha256:
            raise self._wrong_bytes(commit)

    def look_through(self, unit: int, blocks: Blocks, where: str) -> None:
        """Check the records in the object of a unit while little of it is in memory.

        Of a tar they take no time to find: one that is mostly zeros is refused by that. Objects of
        other formats are as small as their records.

        Raises:
            DamagedUnitError: it is no such object; the message begins with `where`.
        """
        if isinstance(self.format, TarFormat):
            tar = TarReader(blocks.read, blocks.size)
            self._decoded(unit, partial(self.format.decode_tar, unit, tar), where)

    def samples_of(self, commit: Commit, data: bytes) -> list[StoredSample]:
        """Return the samples in the object of a committed unit; none in a store that holds none.

        Raises:
            DamagedUnitError: it is no such object.
        """
        try:
            return self.format.samples(commit.unit, data)
        except ValueError as error:
            raise DamagedUnitError(f"{self._place(commit)}: {error}") from error

    def decode_unit(self, commit: Commit, data: bytes) -> Records:
        """Return the records in the object of a committed unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object.
        """
        return self.decode_bytes(commit.unit, data, self._place(commit))

    def decode_bytes(self, unit: int, data: bytes, where: str) -> Records:
        """Return the records in the object of a unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object; the message begins with `where`.
        """
        return self._decoded(unit, partial(self.format.decode, unit, data), where)

    def _decoded(self, unit: int, decode: Callable[[Bytes], None], where: str) -> Records:
        """Return the records that `decode` writes, `[seeds, rows]`, after they were checked."""
        shape = self.manifest.seeds_per_unit, len(self.manifest.unit_range(unit))
        records = np.empty(shape, self.manifest.dtype)
        try:
            decode(records.view(np.uint8).reshape(*shape, -1))
            codec = self.manifest.codec.to_json()
            classes = self.manifest.row_width
            check_records(codec, records, self._row, classes, self.manifest.layout)
            return records
        except (ValueError, CodecError) as error:
            raise DamagedUnitError(f"{where}: {error}") from error

    def read_unit(self, commit: Commit) -> Records:
        """Return the records of a committed unit under the commit's seed, `[rows]`, after its bytes
        were checked against it.

        Raises:
            DamagedUnitError: the object is absent, or differs from what was committed in any byte.
        """
        return self._records(commit, self.unit_bytes)

    def _records(self, commit: Commit, fetch: Fetch) -> Records:
        """Return the records of a committed unit under the commit's seed, `[rows]`."""
        records_of_seeds = self.decode_unit(commit, fetch(commit))
        records: Records = records_of_seeds[commit.seed % self.manifest.seeds_per_unit]
        return records

    def _records_in_order(self, commits: Sequence[Commit], fetch: Fetch) -> Iterator[Records]:
        """Yield the records of every unit in order, of those without a commit zeros."""
        commit_of_unit: dict[int, Commit] = {}
        largest = 0
        for commit in commits:
            commit_of_unit[commit.unit] = commit
            largest = max(largest, commit.num_bytes)

        def records_of(unit: int) -> Records:
            if unit in commit_of_unit:
                return self._records(commit_of_unit[unit], fetch)
            return np.zeros(len(self.manifest.unit_range(unit)), self.manifest.dtype)

        units = range(self.manifest.num_units)
        return fetched(records_of, units, num_bytes=largest + self.manifest.unit_bytes)

    def _wrong_size(self, commit: Commit, size: int) -> DamagedUnitError:
        where, way_out = self._where(commit)
        return DamagedUnitError(
            f"{where}: {size} bytes where {commit.num_bytes} were committed; {way_out}"
        )

    def _wrong_bytes(self, commit: Commit) -> DamagedUnitError:
        where, way_out = self._where(commit)
        return DamagedUnitError(
            f"{where}: its bytes differ from what was committed (SHA-256); {way_out}"
        )

    def _place(self, commit: Commit) -> str:
        """Return where a unit is and the way out if it is damaged, as a message begins."""
        return "; ".join(self._where(commit))

    def _where(self, commit: Commit) -> tuple[str, str]:
        """Return how a message names a unit, and the way out if it is damaged."""
        key = commit_key(self._first_of(commit.seed), commit.unit)
        way_out = f"delete {self}/{key} and {self}/{commit.key} and run the dump again"
        return f"cache {self}, {commit.name}", way_out

    @cached_property
    def _row(self) -> "np.dtype[Any] | None":
        """The dtype of a position's row, where a view has several; without fields where that takes
        a fit."""
        if isinstance(self.manifest.layout, One):
            return None
        codec = codec_from_dict(self.manifest.codec.to_json(), classes=self.manifest.row_width)
        return codec.record_dtype
