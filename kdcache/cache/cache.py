"""The cache: a manifest, units under commits, and slabs to read them from."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kdcache.cache.arrays import read_arrays
from kdcache.cache.commit import Commit, commit_key, numbers_in, unit_name
from kdcache.cache.fetch import fetched
from kdcache.cache.limits import MOST_UNITS
from kdcache.cache.manifest import CODEC, Manifest
from kdcache.cache.objects import Objects
from kdcache.cache.seal import MOST_DOCUMENT
from kdcache.cache.slab import Slab, SlabFolder
from kdcache.cache.subset import held_mask, read_samples
from kdcache.cache.tar_store import TarFormat
from kdcache.cache.units import StoredSample, UnitFormat, committed_unit
from kdcache.cache.zarr_store import ZarrFormat
from kdcache.codecs import Codec, check_records, codec_from_dict, codec_spec
from kdcache.errors import CacheError, CodecError, DamagedUnitError, LargeObjectError, MismatchError, MissingUnitError
from kdcache.shapes import Records, Rows
from kdcache.views.order import row_order


class Cache:
    """An open cache. `open_cache` and `create_cache` make one."""

    def __init__(self, objects: Objects, manifest: Manifest, codec: Codec | None = None) -> None:
        """Open the cache in `objects`; with `codec` it is one that is not on disk yet, as for a plan."""
        self.objects = objects
        self.manifest = manifest
        self.slabs = SlabFolder()
        kind = TarFormat if manifest.store == "webdataset" else ZarrFormat
        self.format: UnitFormat = kind.of(manifest)
        self._last_read: tuple[int, Slab] | None = None
        if codec is not None:
            self.codec = codec

    def __str__(self) -> str:
        """Return where it is, for messages: a folder or an address."""
        return str(self.objects)

    @cached_property
    def codec(self) -> Codec:
        """The codec of its records, with its fit.

        Raises:
            UsageError: a codec that this version does not know.
            CacheError: one whose records have other fields, or whose fit is absent or damaged.
        """
        codec = codec_from_dict(self.manifest.codec, classes=self.manifest.classes, fit=self.fit(), sites=self.manifest.sites)
        if codec.record_dtype != self.manifest.dtype:
            raise CacheError(
                f"cache {self}: its records {self.manifest.dtype} are not those of {codec_spec(codec)} "
                f"({codec.record_dtype}); use the kdcache version that its manifest names"
            )
        return codec

    def fit(self) -> dict[str, np.ndarray] | None:
        """Return the arrays of the codec's fit; None of a codec that has none.

        Raises:
            CacheError: they are absent or damaged.
        """
        digest = self.manifest.arrays.get(CODEC)
        most = self.manifest.most_bytes(CODEC)
        return read_arrays(self.objects, CODEC, digest, most=most) if digest is not None else None

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
        return read_samples(self.objects, self.manifest)

    @cached_property
    def is_held(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Which rows are of samples that it holds, bool `[rows]`: all, but in a subset.

        Raises:
            CacheError: of a subset the samples' numbers are absent or damaged.
        """
        return np.ones(self.manifest.rows, bool) if self.samples is None else held_mask(self.samples, self.order)

    def held_rows(self, commit: Commit) -> Rows:
        """Return the rows of a unit of which there are records: without those that are absent, or not in a subset; int64."""
        held = np.flatnonzero(self.is_held[commit.start : commit.stop]) + commit.start
        return np.setdiff1d(held, [entry["row"] for entry in commit.absent])

    def require_held(self, rows: Rows) -> None:
        """Raise a MissingUnitError if one of `rows` is not in the subset that this cache holds."""
        if self.samples is not None and (outside := rows[~self.is_held[rows]]).size:
            raise MissingUnitError(
                f"sample {self.order[outside[0]]} (row {outside[0]}) is not in the subset that cache {self} holds, of "
                f"{self.manifest.num_held} of {self.manifest.rows} samples; use the cache that it was exported from"
            )

    def seeds(self) -> list[int]:
        """Return the seeds of which at least one unit is committed."""
        firsts = sorted({first for first, _ in self.units()})
        return [seed for first in firsts for seed in self.manifest.unit_seeds(first)]

    def committed_units(self, seed: int) -> list[int]:
        """Return the committed units of `seed`."""
        folder = f"commits/{self.manifest.unit_seeds(seed)[0]:05d}"
        return numbers_in(self.objects.list(folder), "{:06d}.json", range(MOST_UNITS))

    def missing_units(self, seed: int) -> list[int]:
        """Return the units of `seed` that are not committed yet."""
        return sorted(set(range(self.manifest.num_units)) - set(self.committed_units(seed)))

    def complete_seeds(self) -> list[int]:
        """Return the seeds of which every unit is committed."""
        counts = Counter(first for first, _ in self.units())
        whole = [first for first, count in sorted(counts.items()) if count == self.manifest.num_units]
        return [seed for first in whole for seed in self.manifest.unit_seeds(first)]

    def is_committed(self, seed: int, unit: int) -> bool:
        """Return whether a unit can be read."""
        return self.objects.exists(commit_key(self.manifest.unit_seeds(seed)[0], unit))

    def commit_of(self, seed: int, unit: int) -> Commit:
        """Return a unit's commit; of one that it shares with other seeds, what it says of this seed.

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
        first = self.manifest.unit_seeds(seed)[0]
        try:
            data = self.objects.get(commit_key(first, unit), most=MOST_DOCUMENT)
        except FileNotFoundError:
            raise MissingUnitError(
                f"cache {self} does not hold {self.unit_name(seed, unit)}; run dump-teacher with this seed"
            ) from None
        commit = Commit.from_bytes(data, f"cache {self}, {self.unit_name(seed, unit)}")
        rows = self.manifest.unit_range(unit)
        if not rows or (commit.seed, commit.unit, commit.start, commit.stop) != (first, unit, rows.start, rows.stop):
            raise DamagedUnitError(f"cache {self}, {self.unit_name(seed, unit)}: its commit is that of {commit.name}")
        if stray := commit.stray(self.format.key(first, unit), self.manifest.unit_seeds(seed)):
            raise DamagedUnitError(f"cache {self}, {self.unit_name(seed, unit)}: its commit speaks of {stray}")
        return commit

    def unit_name(self, seed: int, unit: int) -> str:
        """Return how messages name a unit."""
        rows = self.manifest.unit_range(unit)
        return unit_name(seed, unit, rows.start, rows.stop)

    def units(self) -> list[tuple[int, int]]:
        """Return the committed units of all seeds, each once, as first seed and number; from one listing of the commits."""
        units = (committed_unit(self.manifest, entry.key) for entry in self.objects.walk("commits"))
        return sorted(unit for unit in units if unit and unit[1] < self.manifest.num_units)

    def commits(self, seed: int) -> list[Commit]:
        """Return the commits of all units of `seed`, in order.

        Raises:
            MissingUnitError: units that are not committed, or a seed of which the cache holds nothing.
        """
        missing = self.missing_units(seed)
        if len(missing) == self.manifest.num_units:
            held = ", ".join(map(str, self.seeds())) or "none"
            raise MissingUnitError(f"cache {self} does not hold seed {seed} (it holds: {held}); dump it first")
        if missing:
            raise MissingUnitError(
                f"cache {self} lacks {len(missing)} of {self.manifest.num_units} units of seed {seed}, the first is "
                f"{self.unit_name(seed, missing[0])}; run the same dump-teacher command again to finish it"
            )
        return self._commits_of(seed, range(self.manifest.num_units))

    def held_commits(self, seed: int) -> list[Commit]:
        """Return the commits of the units of `seed` that are there, in order: of a seed that need not be complete."""
        return self._commits_of(seed, self.committed_units(seed))

    def holes(self, commits: Sequence[Commit]) -> tuple[Rows, Rows]:
        """Return the rows of a seed that its commits record as absent, and those that are missing; int64.

        Missing are the rows of units that are not among the commits, and of a subset those of samples that it does not hold.
        """
        absent = [entry["row"] for commit in commits for entry in commit.absent]
        is_missing = np.ones(self.manifest.rows, bool)
        for commit in commits:
            is_missing[commit.start : commit.stop] = ~self.is_held[commit.start : commit.stop]
        return np.array(sorted(absent), np.int64), np.flatnonzero(is_missing)

    def read_unit(self, commit: Commit) -> Records:
        """Return the records of a committed unit under the commit's seed, `[rows]`, after its bytes were checked against it.

        Raises:
            DamagedUnitError: the object is absent, or differs from what was committed in any byte.
        """
        records: Records = self.decode_unit(commit, self.unit_bytes(commit))[commit.seed % self.manifest.seeds_per_unit]
        return records

    def samples_of(self, commit: Commit, data: bytes) -> list[StoredSample]:
        """Return the samples in the object of a committed unit; none in a store that holds none.

        Raises:
            DamagedUnitError: it is no such object.
        """
        try:
            return self.format.samples(commit.unit, data)
        except ValueError as error:
            raise DamagedUnitError(f"{'; '.join(self._where(commit))}: {error}") from error

    def decode_unit(self, commit: Commit, data: bytes) -> Records:
        """Return the records in the object of a committed unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object.
        """
        return self.decode_bytes(commit.unit, data, "; ".join(self._where(commit)))

    def decode_bytes(self, unit: int, data: bytes, where: str) -> Records:
        """Return the records in the object of a unit, `[seeds, rows]`.

        Raises:
            DamagedUnitError: it is no such object; the message begins with `where`.
        """
        shape = self.manifest.seeds_per_unit, len(self.manifest.unit_range(unit))
        records = np.empty(shape, self.manifest.dtype)
        try:
            self.format.decode(unit, data, records.view(np.uint8).reshape(*shape, -1))
            check_records(self.manifest.codec, records, self._pixel, self.manifest.classes)
            return records
        except (ValueError, CodecError) as error:
            raise DamagedUnitError(f"{where}: {error}") from error

    def unit_bytes(self, commit: Commit) -> bytes:
        """Return the object of a committed unit, after it was checked against the commit.

        Raises:
            DamagedUnitError: it is absent, or differs from what was committed in any byte.
        """
        where, way_out = self._where(commit)
        try:
            key = self.format.key(self.manifest.unit_seeds(commit.seed)[0], commit.unit)
            data = self.objects.get(key, most=commit.num_bytes)
        except LargeObjectError as error:
            raise DamagedUnitError(f"{where}: more bytes than were committed: {error}; {way_out}") from None
        except FileNotFoundError:
            raise DamagedUnitError(f"{where}: the object {commit.key} is missing; {way_out}") from None
        if len(data) != commit.num_bytes:
            raise DamagedUnitError(f"{where}: {len(data)} bytes where {commit.num_bytes} were committed; {way_out}")
        if not commit.is_of(data):
            raise DamagedUnitError(f"{where}: its bytes differ from what was committed (SHA-256); {way_out}")
        return data

    def read(self, seed: int, rows: Rows | Sequence[int]) -> Records:
        """Return the records of `rows` under `seed`, in their order.

        Raises:
            MissingUnitError: a row that the cache does not hold.
            DamagedUnitError: a unit that differs from what was committed.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.manifest.rows:
            raise MissingUnitError(f"cache {self} holds rows 0 to {self.manifest.rows - 1}, not all of those asked for")
        self.require_held(wanted)
        if self._last_read is None or self._last_read[0] != seed:
            self._last_read = seed, self.slab(seed)  # a complete seed never changes
        return self._last_read[1].gather(wanted)

    def slab(self, seed: int, *, is_partial: bool = False) -> Slab:
        """Return the slab of `seed`, made from verified units unless it is there already.

        Of several processes on one machine that ask for it at once, one makes it and the others wait.

        Args:
            seed: the seed.
            is_partial: whether units may be missing; the slab then names their rows, and refuses to give them. So it does,
                in any case, with rows that are not in a subset.

        Raises:
            MissingUnitError: units that are not committed.
            DamagedUnitError: a unit that differs from what was committed.
            CacheError: no room for the slab.
        """
        return self.slab_of(self.held_commits(seed) if is_partial else self.commits(seed))

    def slab_of(self, commits: Sequence[Commit]) -> Slab:
        """Return the slab of a seed's commits, those that count for whoever asks; see `slab`."""
        identity = "".join([self.manifest.digest, *(commit.digest for commit in commits)])  # a seal covers seed and unit
        dtype = self.manifest.dtype
        shape = self.manifest.rows, dtype.itemsize
        path = self.slabs.make(hashlib.sha256(identity.encode()).hexdigest()[:32], *shape, lambda: self._all_units(commits))
        absent, missing = self.holes(commits)
        outside = None if self.samples is None else ~self.is_held
        return Slab(path, dtype, absent=absent, missing=missing, outside=outside)

    def require(self, manifest: Manifest) -> None:
        """Check that records made under `manifest` belong into this cache.

        Raises:
            MismatchError: the fields that differ.
        """
        if lines := self.manifest.differences(manifest):
            way_out = "choose a new folder, or the same settings" if self.seeds() else "it holds no unit yet: remove it"
            if self.samples is not None and manifest.samples is None:
                way_out = "it is a subset, which holds what was exported into it; dump into the cache that it came from"
            raise MismatchError(f"cache {self} was made otherwise ({'; '.join(lines)}); {way_out}")

    def with_fit(self, codec: Codec) -> Codec:
        """Return `codec` with the fit that this cache was made with; itself, if it has nothing to fit.

        Raises:
            MismatchError: the cache was made with another codec.
        """
        if codec.record_dtype.itemsize:
            return codec
        mine, theirs = codec_spec(self.codec), codec_spec(codec)
        if mine != theirs:
            raise MismatchError(f"cache {self} was made with {mine}, not {theirs}; choose that codec, or a new folder")
        return self.codec

    def array_faults(self, seed: int) -> list[str]:
        """Return what keeps plain readers, zarr's, from reading `seed`, one line each."""
        return [f"cache {self}, seed {seed}: {fault}" for fault in self.format.faults(self.objects, seed)]

    def _commits_of(self, seed: int, units: Sequence[int]) -> list[Commit]:
        return [*fetched(lambda unit: self.commit_of(seed, unit), units, num_bytes=0)]

    def _all_units(self, commits: Sequence[Commit]) -> Iterator[Records]:
        """Yield the records of every unit in order, of those without a commit zeros."""
        there = {commit.unit: commit for commit in commits}

        def of(unit: int) -> Records:
            if unit in there:
                return self.read_unit(there[unit])
            return np.zeros(len(self.manifest.unit_range(unit)), self.manifest.dtype)

        largest = max((commit.num_bytes for commit in commits), default=0)
        return fetched(of, range(self.manifest.num_units), num_bytes=largest)

    def _where(self, commit: Commit) -> tuple[str, str]:
        """Return how a message names a unit, and the way out if it is damaged."""
        key = commit_key(self.manifest.unit_seeds(commit.seed)[0], commit.unit)
        way_out = f"delete {key} and {commit.key} and run the dump again"
        return f"cache {self}, {commit.name}", way_out

    @cached_property
    def _pixel(self) -> "np.dtype[Any] | None":
        """The dtype of a pixel's row, in a cache of maps; without fields where that takes a fit."""
        codec = codec_from_dict(self.manifest.codec, classes=self.manifest.classes) if self.manifest.sites else None
        return codec.record_dtype if codec else None
