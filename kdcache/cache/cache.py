"""The cache: a manifest, units under commits, and slabs to read them from."""

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

import kdcache.views
from kdcache.cache.arrays import read_arrays
from kdcache.cache.documents.commit import Commit
from kdcache.cache.documents.manifest import CODEC, SOURCE, Manifest
from kdcache.cache.local_file import LocalFile
from kdcache.cache.open_slabs import OpenSlabs, whole_numbers
from kdcache.cache.slab import Slab, slab_name
from kdcache.cache.slab_folder import SlabFolder
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.stored_units import Fetch, StoredUnits
from kdcache.cache.stored_views import read_views
from kdcache.cache.subset import held_mask, read_samples
from kdcache.codecs import Codec, codec_from_dict, codec_spec
from kdcache.errors import CacheError, MismatchError, MissingUnitError, quoted
from kdcache.runtime.contrast import joined
from kdcache.runtime.wording import counted
from kdcache.shapes import Records, Rows
from kdcache.views.permutation import row_order


class Cache(StoredUnits):
    """An open cache. `open_cache` and `create_cache` make one."""

    def __init__(self, storage: Storage, manifest: Manifest, codec: Codec | None = None) -> None:
        """Open the cache in `storage`; with `codec` one that is not on disk yet, as for a plan."""
        super().__init__(storage, manifest)
        self.slabs = SlabFolder()
        self._open_slabs = OpenSlabs()
        self.stamp: Hashable | None = None
        """Of the object of the manifest, when a writer last made sure of it."""
        if codec is not None:
            self.codec = codec

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
            for records in self._records_in_order(commits, fetch or self.unit_bytes):
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
