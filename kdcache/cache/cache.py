"""The cache: a manifest, units under commits, and slabs to read them from."""

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

import kdcache.views
from kdcache.cache.arrays import read_arrays
from kdcache.cache.commit_folder import CommitFolder
from kdcache.cache.documents.commit import Commit
from kdcache.cache.documents.manifest import CODEC, SOURCE, Manifest
from kdcache.cache.formats.protocol import StoredSample, Unit, UnitFormat
from kdcache.cache.formats.tar import TarFormat
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.cache.gaps import Gaps
from kdcache.cache.local_file import LocalFile
from kdcache.cache.open_slabs import OpenSlabs, whole_numbers
from kdcache.cache.slab import Slab, slab_name
from kdcache.cache.slab_folder import SlabFolder
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import Entry, Storage
from kdcache.cache.stored_views import read_views
from kdcache.cache.subset import held_mask, read_samples
from kdcache.cache.unit_objects import Fetch, UnitObjects
from kdcache.codecs import Codec, codec_from_dict, codec_spec
from kdcache.errors import CacheError, MismatchError, MissingUnitError, quoted
from kdcache.runtime.contrast import joined
from kdcache.runtime.wording import counted
from kdcache.shapes import Records, Rows
from kdcache.views.permutation import row_order


class Cache:
    """An open cache. `open_cache` and `create_cache` make one."""

    def __init__(self, storage: Storage, manifest: Manifest, codec: Codec | None = None) -> None:
        """Open the cache in `storage`; with `codec` one that is not on disk yet, as for a plan."""
        self.storage = storage
        self.manifest = manifest
        self.slabs = SlabFolder()
        kind = TarFormat if manifest.store == "webdataset" else ZarrFormat
        self.format: UnitFormat = kind.of(manifest)
        self._commits = CommitFolder(storage, manifest, self.format)
        self._objects = UnitObjects(storage, manifest, self.format)
        self._open_slabs = OpenSlabs()
        self.stamp: Hashable | None = None
        """Of the object of the manifest, when a writer last made sure of it."""
        if codec is not None:
            self.codec = codec

    def __str__(self) -> str:
        """Return where it is, for messages: a folder or an address."""
        return str(self.storage)

    def __repr__(self) -> str:
        """Return where it is, and what it holds, for a notebook or a prompt."""
        manifest = self.manifest
        return (
            f"<Cache {self}: {manifest.task}, {counted(manifest.rows, 'sample')},"
            f" {counted(manifest.classes, 'class')}, codec {manifest.codec.name}>"
        )

    @cached_property
    def codec(self) -> Codec:
        """The codec of its records, with its fit.

        Raises:
            UsageError: a codec that this version does not know.
            CacheError: one whose records have other fields, or whose fit is absent or damaged.
        """
        codec = codec_from_dict(
            self.manifest.codec.to_json(),
            classes=self.manifest.row_width,
            fit=self.fit(),
            layout=self.manifest.layout,
        )
        if codec.record_dtype != self.manifest.dtype:
            raise CacheError(
                f"cache {self}: its records {quoted(self.manifest.dtype)} are not those of"
                f" {codec_spec(codec)} ({quoted(codec.record_dtype)}); use the kdcache version that"
                " its manifest names"
            )
        return codec

    @cached_property
    def recipe(self) -> "kdcache.views.Recipe":
        """The recipe of its views.

        Raises:
            RecipeError: this version of kdcache would render other views from it.
            CacheError: views that are stored are absent or damaged.
        """
        views = read_views(self.storage, self.manifest)
        return kdcache.views.Recipe.from_dict(self.manifest.recipe.to_json(), views)

    def fit(self) -> dict[str, np.ndarray] | None:
        """Return the arrays of the codec's fit; None of a codec that has none.

        Raises:
            CacheError: they are absent or damaged.
        """
        return self._arrays(CODEC)

    def source_arrays(self) -> dict[str, np.ndarray] | None:
        """Return the arrays of the list of its source; None where it has none.

        Raises:
            CacheError: they are absent or damaged.
        """
        return self._arrays(SOURCE)

    @cached_property
    def order(self) -> Rows:
        """Row r is sample `order[r]` of the source, int64 `[rows]`."""
        return row_order(self.manifest.rows, self.manifest.order_seed)

    @cached_property
    def samples(self) -> Rows | None:
        """The numbers of the samples that it holds, rising, int64; None where it holds all.

        Raises:
            CacheError: of a subset they are absent or damaged.
        """
        return read_samples(self.storage, self.manifest)

    @cached_property
    def is_held(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Which rows are of samples that it holds, bool `[rows]`, read-only: all, but in a subset.

        Raises:
            CacheError: of a subset the samples' numbers are absent or damaged.
        """
        if self.samples is None:
            # one value, seen from each row: a manifest may say 4 billion rows, where nothing is
            return np.broadcast_to(np.True_, self.manifest.rows)
        return held_mask(self.samples, self.order)

    def held_rows(self, commit: Commit) -> Rows:
        """Return the rows of a unit of which there are records: without those that are absent, or
        not in a subset; int64."""
        rows = np.flatnonzero(self.is_held[commit.start : commit.stop]) + commit.start
        absent = [absence.row for absence in commit.absent]
        return np.setdiff1d(rows, absent)

    def require_held(self, rows: Rows) -> None:
        """Raise a MissingUnitError if one of `rows` is not in the subset that this cache holds."""
        if self.samples is None:
            return
        outside = rows[~self.is_held[rows]]
        if outside.size:
            raise MissingUnitError(
                f"sample {self.order[outside[0]]} (row {outside[0]}) is not in the subset that"
                f" cache {self} holds, of {self.manifest.num_held} of {self.manifest.rows} samples;"
                " use the cache that it was exported from"
            )

    def seeds(self) -> list[int]:
        """Return the seeds of which at least one unit is committed."""
        return self._commits.seeds()

    def committed_units(self, seed: int) -> list[int]:
        """Return the committed units of `seed`."""
        return self._commits.units_of(seed)

    def missing_units(self, seed: int) -> Gaps:
        """Return the units of `seed` that are not committed yet."""
        return self._commits.missing_units(seed)

    def complete_seeds(self) -> list[int]:
        """Return the seeds of which every unit is committed."""
        return self._commits.complete_seeds()

    def require_complete(self, seed: int) -> None:
        """Raise a MissingUnitError if a unit of `seed` is not committed; no commit is read."""
        self._commits.require_complete(seed)

    def is_committed(self, seed: int, unit: int) -> bool:
        """Return whether a unit can be read."""
        return self._commits.is_committed(seed, unit)

    def commit_of(self, seed: int, unit: int) -> Commit:
        """Return a unit's commit; of one that it shares with other seeds, what it says of this
        seed.

        Raises:
            MissingUnitError: the unit is not committed.
            DamagedUnitError: the commit is not what was written.
        """
        return self.whole_commit(seed, unit).of_seed(seed)

    def whole_commit(self, seed: int, unit: int) -> Commit:
        """Return a unit's commit, with what it says of all its seeds.

        Raises:
            MissingUnitError: the unit is not committed.
            DamagedUnitError: the commit is not what was written.
        """
        return self._commits.commit(seed, unit)

    @property
    def commit_room(self) -> int:
        """Bytes that `fetched` is to keep free for each commit."""
        return self._commits.room

    def unit_name(self, seed: int, unit: int) -> str:
        """Return how messages name a unit."""
        return self._commits.unit_name(seed, unit)

    def committed(self) -> dict[Unit, Entry]:
        """Return the commits of all seeds by unit, in order, from one listing; none is read, and
        a forged one may be of a unit past the last.

        Raises:
            CacheError: commits of more seeds than a cache may have.
        """
        return self._commits.entries()

    def units(self) -> list[Unit]:
        """Return the committed units of all seeds, each once, in order; errors as `committed`."""
        return self._commits.units()

    def commits(self, seed: int) -> list[Commit]:
        """Return the commits of all units of `seed`, in order.

        Raises:
            MissingUnitError: units that are not committed, or a seed of which the cache holds
                nothing.
        """
        return self._commits.all_of(seed)

    def held_commits(self, seed: int) -> list[Commit]:
        """Return the commits of the units of `seed` that are there, in order: of a seed that need
        not be complete."""
        return self._commits.commits_of(seed, self.committed_units(seed))

    def unavailable(self, commits: Sequence[Commit]) -> tuple[Rows, Rows]:
        """Return the rows of a seed that its commits record as absent, and those that are missing;
        int64.

        Missing are the rows of units that are not among the commits, and of a subset those of
        samples that it does not hold.
        """
        absent: list[int] = []
        is_missing = np.ones(self.manifest.rows, bool)
        for commit in commits:
            rows = slice(commit.start, commit.stop)
            absent += [absence.row for absence in commit.absent]
            is_missing[rows] = ~self.is_held[rows]
        return np.array(sorted(absent), np.int64), np.flatnonzero(is_missing)

    def read_unit(self, commit: Commit) -> Records:
        """Return the records of a committed unit under the commit's seed, `[rows]`, after its bytes
        were checked against it.

        Raises:
            DamagedUnitError: the object is absent, or differs from what was committed in any byte.
        """
        return self._objects.records(commit, self.unit_bytes)

    def samples_of(self, commit: Commit, data: bytes) -> list[StoredSample]:
        """Return the samples in the object of a committed unit; none in a store that holds none.

        Raises:
            DamagedUnitError: it is no such object.
        """
        return self._objects.samples(commit, data)

    def decode_unit(self, commit: Commit, data: bytes) -> Records:
        """Return the records in the object of a committed unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object.
        """
        return self._objects.decoded(commit, data)

    def decode_bytes(self, unit: int, data: bytes, where: str) -> Records:
        """Return the records in the object of a unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object; the message begins with `where`.
        """
        return self._objects.decoded_bytes(unit, data, where)

    def unit_bytes(self, commit: Commit) -> bytes:
        """Return the object of a committed unit, after it was checked against the commit.

        Raises:
            DamagedUnitError: it is absent, or differs from what was committed in any byte.
        """
        return self._objects.content(commit)

    def look_through(self, unit: int, blocks: Blocks, where: str) -> None:
        """Check the records in the object of a unit while little of it is in memory.

        Of a tar they take no time to find: one that is mostly zeros is refused by that. Objects of
        other formats are as small as their records.

        Raises:
            DamagedUnitError: it is no such object; the message begins with `where`.
        """
        self._objects.look_through(unit, blocks, where)

    def read(self, seeds: int | Rows | Sequence[int], rows: Rows | Sequence[int]) -> Records:
        """Return the records of `rows` under `seeds`, in their order.

        Args:
            seeds: one for all rows, or one a row.
            rows: which samples, by their place in the cache's order.

        Raises:
            UsageError: no whole numbers, or seeds that are not as many as rows.
            MissingUnitError: a row that the cache does not hold.
            DamagedUnitError: a unit that differs from what was committed.
        """
        numbers = whole_numbers(rows, "rows")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.manifest.rows:
            raise MissingUnitError(
                f"cache {self} holds rows 0 to {self.manifest.rows - 1}, not all of those asked for"
            )
        self.require_held(numbers)
        return self._open_slabs.records(seeds, numbers, self.slab, self.manifest.dtype)

    def slab(self, seed: int, *, is_partial: bool = False) -> Slab:
        """Return the slab of `seed`, made from verified units unless it is there already.

        Of several processes on one machine that ask for it at once, one makes it and the others
        wait.

        Args:
            seed: the seed.
            is_partial: whether units may be missing; the slab then names their rows, and refuses to
                give them. So it does, in any case, with rows that are not in a subset.

        Raises:
            MissingUnitError: units that are not committed.
            DamagedUnitError: a unit that differs from what was committed.
            CacheError: no room for the slab.
        """
        commits = self.held_commits(seed) if is_partial else self.commits(seed)
        return self.slab_of(commits)

    def slab_of(self, commits: Sequence[Commit], *, fetch: Fetch | None = None) -> Slab:
        """Return the slab of some commits of one seed, those that count for whoever asks; see
        `slab`.

        Args:
            commits: of the seed.
            fetch: returns the checked bytes of a unit; by default `unit_bytes`.
        """
        name = slab_name(self.manifest.digest, commits)
        num_rows = self.manifest.rows
        dtype = self.manifest.dtype

        def parts() -> Iterator[memoryview]:
            for records in self._objects.records_in_order(commits, fetch or self.unit_bytes):
                yield np.ascontiguousarray(records).view(np.uint8).data

        def open_file() -> LocalFile:
            return self.slabs.make(name, num_rows * dtype.itemsize, parts)

        absent, missing = self.unavailable(commits)
        outside = None if self.samples is None else ~self.is_held
        return Slab(open_file, num_rows, dtype, absent=absent, missing=missing, outside=outside)

    def require(self, manifest: Manifest) -> None:
        """Check that records made under `manifest` belong into this cache.

        Raises:
            MismatchError: the fields that differ.
        """
        lines = self.manifest.differences(manifest)
        if not lines:
            return
        way_out = self.manifest.way_out(manifest, str(self), has_units=bool(self.seeds()))
        raise MismatchError(f"cache {self} was made otherwise ({joined(lines)}); {way_out}")

    def with_fit(self, codec: Codec) -> Codec:
        """Return `codec` with the fit that this cache was made with; itself, if it has nothing to
        fit.

        Raises:
            MismatchError: the cache was made with another codec.
        """
        if codec.record_dtype.itemsize:
            return codec
        mine = codec_spec(self.codec)
        theirs = codec_spec(codec)
        if mine != theirs:
            raise MismatchError(
                f"cache {self} was made with {mine}, not {theirs}; choose that codec, or a new"
                " folder"
            )
        return self.codec

    def array_faults(self, seed: int) -> list[str]:
        """Return what keeps plain readers, zarr's, from reading `seed`, one line each."""
        faults = self.format.faults(self.storage, seed)
        return [f"cache {self}, seed {seed}: {fault}" for fault in faults]

    def _arrays(self, root: str) -> dict[str, np.ndarray] | None:
        """Return the arrays under a root that the manifest names; None if it names none."""
        digest = self.manifest.arrays.get(root)
        if digest is None:
            return None
        return read_arrays(self.storage, root, digest, most=self.manifest.most_bytes(root))
