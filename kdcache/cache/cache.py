"""The cache: a manifest, units under commits, and slabs to read them from."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from kdcache.cache.arrays import read_arrays
from kdcache.cache.documents.commit import Commit, commit_key, numbers_in, unit_name
from kdcache.cache.documents.limits import MOST_SEEDS, MOST_UNITS
from kdcache.cache.documents.manifest import CODEC, SOURCE, Manifest
from kdcache.cache.formats.protocol import Bytes, StoredSample, Unit, UnitFormat, committed_unit
from kdcache.cache.formats.tar import TarFormat
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.cache.gaps import Gaps
from kdcache.cache.prefetch import fetched
from kdcache.cache.slab import Slab
from kdcache.cache.slab_folder import SLAB, LocalFile, SlabFolder
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import Entry, Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.cache.subset import held_mask, read_samples
from kdcache.codecs import Codec, check_records, codec_from_dict, codec_spec
from kdcache.errors import (
    CacheError,
    CodecError,
    DamagedUnitError,
    LargeObjectError,
    MismatchError,
    MissingUnitError,
    UsageError,
    quoted,
)
from kdcache.positions import One
from kdcache.runtime.contrast import joined
from kdcache.shapes import Records, Rows
from kdcache.sources.tar_reader import TarReader
from kdcache.views.permutation import row_order
from kdcache.views.recipe import Recipe

Fetch = Callable[[Commit], bytes]
"""Returns the bytes of a committed unit, after they were checked against the commit."""
_ROOM = 2
"""Bytes that are kept free for each byte that a commit may have while it is fetched."""
_MOST_READ = 16
"""Seeds whose slabs stay open."""
_LARGE = 1 << 24
"""Bytes of an object that is looked through before it is read into memory; several are read at
once."""


class Cache:
    """An open cache. `open_cache` and `create_cache` make one."""

    def __init__(self, storage: Storage, manifest: Manifest, codec: Codec | None = None) -> None:
        """Open the cache in `storage`; with `codec` it is one that is not on disk yet, as for a
        plan."""
        self.storage = storage
        self.manifest = manifest
        self.slabs = SlabFolder()
        kind = TarFormat if manifest.store == "webdataset" else ZarrFormat
        self.format: UnitFormat = kind.of(manifest)
        self._read: OrderedDict[int, Slab] = OrderedDict()
        self.stamp: Hashable | None = None
        """Of the object of the manifest, when a writer last made sure of it."""
        if codec is not None:
            self.codec = codec

    def __str__(self) -> str:
        """Return where it is, for messages: a folder or an address."""
        return str(self.storage)

    @cached_property
    def codec(self) -> Codec:
        """The codec of its records, with its fit.

        Raises:
            UsageError: a codec that this version does not know.
            CacheError: one whose records have other fields, or whose fit is absent or damaged.
        """
        codec = codec_from_dict(
            self.manifest.codec.to_json(),
            classes=self.manifest.classes,
            fit=self.fit(),
            layout=self.manifest.layout,
        )
        if codec.record_dtype != self.manifest.dtype:
            raise CacheError(
                f"cache {self}: its records {quoted(self.manifest.dtype)} are not those of "
                f"{codec_spec(codec)} "
                f"({quoted(codec.record_dtype)}); use the kdcache version that its manifest names"
            )
        return codec

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of its views.

        Raises:
            RecipeError: this version of kdcache would render other views from it.
        """
        return Recipe.from_dict(self.manifest.recipe.to_json())

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
        held = np.flatnonzero(self.is_held[commit.start : commit.stop]) + commit.start
        return np.setdiff1d(held, [absence.row for absence in commit.absent])

    def require_held(self, rows: Rows) -> None:
        """Raise a MissingUnitError if one of `rows` is not in the subset that this cache holds."""
        if self.samples is not None and (outside := rows[~self.is_held[rows]]).size:
            raise MissingUnitError(
                f"sample {self.order[outside[0]]} (row {outside[0]}) is not in the subset that"
                f" cache {self} holds, of {self.manifest.num_held} of {self.manifest.rows} samples;"
                " use the cache that it was exported from"
            )

    def seeds(self) -> list[int]:
        """Return the seeds of which at least one unit is committed."""
        firsts = sorted({first for first, _ in self.units()})
        return self._groups_of(firsts)

    def committed_units(self, seed: int) -> list[int]:
        """Return the committed units of `seed`."""
        folder = f"commits/{self.manifest.unit_seeds(seed)[0]:05d}"
        return numbers_in(self.storage.list(folder), "{:06d}.json", range(MOST_UNITS))

    def missing_units(self, seed: int) -> Gaps:
        """Return the units of `seed` that are not committed yet."""
        committed = self.committed_units(seed)
        return Gaps(
            [unit for unit in committed if unit < self.manifest.num_units], self.manifest.num_units
        )

    def complete_seeds(self) -> list[int]:
        """Return the seeds of which every unit is committed."""
        counts = Counter(first for first, _ in self.units())
        whole = [first for first, count in counts.items() if count == self.manifest.num_units]
        return self._groups_of(whole)

    def _groups_of(self, firsts: Iterable[int]) -> list[int]:
        """Return all seeds of the groups that begin with `firsts`."""
        seeds: list[int] = []
        for first in firsts:
            seeds += self.manifest.unit_seeds(first)
        return seeds

    def is_committed(self, seed: int, unit: int) -> bool:
        """Return whether a unit can be read."""
        return self.storage.exists(commit_key(self.manifest.unit_seeds(seed)[0], unit))

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
        return read_twice(lambda is_fresh: self._read_commit(seed, unit, is_fresh))

    def _read_commit(self, seed: int, unit: int, is_fresh: bool) -> Commit:
        first = self.manifest.unit_seeds(seed)[0]
        most_bytes, most_values = self.manifest.commit_limits
        try:
            data = self.storage.get(commit_key(first, unit), most=most_bytes, is_fresh=is_fresh)
        except FileNotFoundError:
            raise MissingUnitError(
                f"cache {self} does not hold {self.unit_name(seed, unit)}; run dump-teacher with"
                " this seed"
            ) from None
        where = f"cache {self}, {self.unit_name(seed, unit)}"
        paths = [
            f"{self.storage}/{key}"
            for key in (commit_key(first, unit), self.format.key(first, unit))
        ]
        commit = Commit.from_bytes(data, where, paths=paths, most_values=most_values)
        rows = self.manifest.unit_range(unit)
        if not rows or (commit.seed, commit.unit, commit.start, commit.stop) != (
            first,
            unit,
            rows.start,
            rows.stop,
        ):
            raise DamagedUnitError(
                f"cache {self}, {self.unit_name(seed, unit)}: its commit is that of {commit.name}"
            )
        if mismatch := commit.mismatch(
            self.format.key(first, unit), self.manifest.unit_seeds(seed)
        ):
            raise DamagedUnitError(
                f"cache {self}, {self.unit_name(seed, unit)}: its commit speaks of {mismatch}"
            )
        if commit.num_bytes > (most := self.format.most_bytes(unit)):
            raise DamagedUnitError(
                f"cache {self}, {self.unit_name(seed, unit)}: its commit speaks of an object of "
                f"{commit.num_bytes} bytes; "
                f"such a unit has at most {most}"
            )
        return commit

    @property
    def commit_room(self) -> int:
        """Bytes that `fetched` is to keep free for each commit."""
        return _ROOM * self.manifest.commit_limits[0]

    def unit_name(self, seed: int, unit: int) -> str:
        """Return how messages name a unit."""
        rows = self.manifest.unit_range(unit)
        return unit_name(seed, unit, rows.start, rows.stop)

    def committed(self) -> dict[Unit, Entry]:
        """Return the commits of all seeds by unit, in order, from one listing; none is read, and
        a forged one may be of a unit past the last.

        Raises:
            CacheError: commits of more seeds than a cache may have.
        """
        found = {}
        for entry in self.storage.walk("commits"):
            unit = committed_unit(self.manifest, entry.key)
            if unit:
                found[unit] = entry
        count = len({first for first, _ in found}) * self.manifest.seeds_per_unit
        if count > MOST_SEEDS:
            raise CacheError(f"cache {self} has commits of {count} seeds; it may have {MOST_SEEDS}")
        return dict(sorted(found.items()))

    def units(self) -> list[Unit]:
        """Return the committed units of all seeds, each once, in order; errors as `committed`."""
        return [unit for unit in self.committed() if unit[1] < self.manifest.num_units]

    def commits(self, seed: int) -> list[Commit]:
        """Return the commits of all units of `seed`, in order.

        Raises:
            MissingUnitError: units that are not committed, or a seed of which the cache holds
                nothing.
        """
        missing = self.missing_units(seed)
        if len(missing) == self.manifest.num_units:
            held = ", ".join(map(str, self.seeds())) or "none"
            raise MissingUnitError(
                f"cache {self} does not hold seed {seed} (it holds: {held}); dump it first"
            )
        if missing:
            raise MissingUnitError(
                f"cache {self} lacks {len(missing)} of {self.manifest.num_units} units of seed"
                f" {seed}, the first is {self.unit_name(seed, missing[0])}; run the same"
                " dump-teacher command again to finish it"
            )
        return self._commits_of(seed, range(self.manifest.num_units))

    def held_commits(self, seed: int) -> list[Commit]:
        """Return the commits of the units of `seed` that are there, in order: of a seed that need
        not be complete."""
        return self._commits_of(seed, self.committed_units(seed))

    def unavailable(self, commits: Sequence[Commit]) -> tuple[Rows, Rows]:
        """Return the rows of a seed that its commits record as absent, and those that are missing;
        int64.

        Missing are the rows of units that are not among the commits, and of a subset those of
        samples that it does not hold.
        """
        absent: list[int] = []
        is_missing = np.ones(self.manifest.rows, bool)
        for commit in commits:
            absent += [absence.row for absence in commit.absent]
            is_missing[commit.start : commit.stop] = ~self.is_held[commit.start : commit.stop]
        return np.array(sorted(absent), np.int64), np.flatnonzero(is_missing)

    def read_unit(self, commit: Commit) -> Records:
        """Return the records of a committed unit under the commit's seed, `[rows]`, after its bytes
        were checked against it.

        Raises:
            DamagedUnitError: the object is absent, or differs from what was committed in any byte.
        """
        return self._records_of(commit, self.unit_bytes)

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
        return self._decoded(unit, partial(self.format.decode, unit, data), where)

    def _decoded(self, unit: int, decode: Callable[[Bytes], None], where: str) -> Records:
        """Return the records that `decode` writes, `[seeds, rows]`, after they were checked."""
        shape = self.manifest.seeds_per_unit, len(self.manifest.unit_range(unit))
        records = np.empty(shape, self.manifest.dtype)
        try:
            decode(records.view(np.uint8).reshape(*shape, -1))
            codec = self.manifest.codec.to_json()
            classes = self.manifest.classes
            check_records(codec, records, self._row, classes, self.manifest.layout)
            return records
        except (ValueError, CodecError) as error:
            raise DamagedUnitError(f"{where}: {error}") from error

    def unit_bytes(self, commit: Commit) -> bytes:
        """Return the object of a committed unit, after it was checked against the commit.

        Raises:
            DamagedUnitError: it is absent, or differs from what was committed in any byte.
        """
        return read_twice(lambda is_fresh: self._read_unit_bytes(commit, is_fresh))

    def _read_unit_bytes(self, commit: Commit, is_fresh: bool) -> bytes:
        where, way_out = self._where(commit)
        try:
            key = self.format.key(self.manifest.unit_seeds(commit.seed)[0], commit.unit)
            most = min(commit.num_bytes, self.format.most_bytes(commit.unit))
            if most > _LARGE:
                with self.storage.blocks(key, most=most, is_fresh=is_fresh) as blocks:
                    self._compare(commit, blocks)
                    data = blocks.read(0, blocks.size)
            else:
                data = self.storage.get(key, most=most, is_fresh=is_fresh)
        except LargeObjectError as error:
            raise DamagedUnitError(
                f"{where}: more bytes than were committed: {error}; {way_out}"
            ) from None
        except FileNotFoundError:
            raise DamagedUnitError(
                f"{where}: the object {commit.key} is missing; {way_out}"
            ) from None
        if len(data) != commit.num_bytes:
            raise DamagedUnitError(
                f"{where}: {len(data)} bytes where {commit.num_bytes} were committed; {way_out}"
            )
        if not commit.is_of(data):
            raise DamagedUnitError(
                f"{where}: its bytes differ from what was committed (SHA-256); {way_out}"
            )
        return data

    def _compare(self, commit: Commit, blocks: Blocks) -> None:
        """Compare a large object with its commit while little of it is in memory.

        Raises:
            DamagedUnitError: it is another, or no such object.
        """
        where, way_out = self._where(commit)
        if blocks.size != commit.num_bytes:
            raise DamagedUnitError(
                f"{where}: {blocks.size} bytes where {commit.num_bytes} were committed; {way_out}"
            )
        self.look_through(commit.unit, blocks, f"{where}; {way_out}")
        if blocks.sha256() != commit.sha256:
            raise DamagedUnitError(
                f"{where}: its bytes differ from what was committed (SHA-256); {way_out}"
            )

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
        wanted = _integers(rows, "rows")
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.manifest.rows:
            raise MissingUnitError(
                f"cache {self} holds rows 0 to {self.manifest.rows - 1}, not all of those asked for"
            )
        self.require_held(wanted)
        if isinstance(seeds, bool):
            raise UsageError(f"seeds is {seeds}; give one seed, or one for each row")
        if isinstance(seeds, int | np.integer):
            return self._open_slab(int(seeds)).gather(wanted)
        of_rows = _integers(seeds, "seeds")
        if of_rows.shape != wanted.shape:
            raise UsageError(
                f"seeds are of shape {of_rows.shape}, rows of {wanted.shape}; give one seed, or one"
                " for each row"
            )
        records = np.empty(len(wanted), self.manifest.dtype)
        for seed in np.unique(of_rows).tolist():
            at = of_rows == seed
            records[at] = self._open_slab(seed).gather(wanted[at])
        return records

    def _open_slab(self, seed: int) -> Slab:
        """Return the slab of a complete seed, which never changes; the one used least recently is
        let go."""
        if seed not in self._read:
            self._read[seed] = self.slab(seed)
            if len(self._read) > _MOST_READ:
                self._read.popitem(last=False)
        self._read.move_to_end(seed)
        return self._read[seed]

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
        return self.slab_of(self.held_commits(seed) if is_partial else self.commits(seed))

    def slab_of(self, commits: Sequence[Commit], *, fetch: Fetch | None = None) -> Slab:
        """Return the slab of some commits of one seed, those that count for whoever asks; see
        `slab`.

        Args:
            commits: of the seed.
            fetch: returns the checked bytes of a unit; by default `unit_bytes`.
        """
        # the digest of a commit covers seed and unit
        identity = "".join([self.manifest.digest, *(commit.digest for commit in commits)])
        name = f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.{SLAB}"
        num_rows = self.manifest.rows
        dtype = self.manifest.dtype

        def open_file() -> LocalFile:
            units = partial(self._all_units, commits, fetch or self.unit_bytes)
            return self.slabs.make(
                name, num_rows * dtype.itemsize, lambda: map(_raw_bytes, units())
            )

        absent, missing = self.unavailable(commits)
        outside = None if self.samples is None else ~self.is_held
        return Slab(open_file, num_rows, dtype, absent=absent, missing=missing, outside=outside)

    def require(self, manifest: Manifest) -> None:
        """Check that records made under `manifest` belong into this cache.

        Raises:
            MismatchError: the fields that differ.
        """
        if lines := self.manifest.differences(manifest):
            if self.samples is not None and manifest.samples is None:
                way_out = (
                    "it is a subset, which holds what was exported into it; dump into the cache"
                    " that it came from"
                )
            elif self.seeds():
                way_out = "choose a new folder, or the same settings"
            else:
                way_out = "it holds no unit yet: remove it"
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
        return [
            f"cache {self}, seed {seed}: {fault}"
            for fault in self.format.faults(self.storage, seed)
        ]

    def _arrays(self, root: str) -> dict[str, np.ndarray] | None:
        """Return the arrays under a root that the manifest names; None if it names none."""
        digest = self.manifest.arrays.get(root)
        if digest is None:
            return None
        return read_arrays(self.storage, root, digest, most=self.manifest.most_bytes(root))

    def _records_of(self, commit: Commit, fetch: Fetch) -> Records:
        of_seeds = self.decode_unit(commit, fetch(commit))
        records: Records = of_seeds[commit.seed % self.manifest.seeds_per_unit]
        return records

    def _commits_of(self, seed: int, units: Sequence[int]) -> list[Commit]:
        return [
            *fetched(lambda unit: self.commit_of(seed, unit), units, num_bytes=self.commit_room)
        ]

    def _all_units(self, commits: Sequence[Commit], fetch: Fetch) -> Iterator[Records]:
        """Yield the records of every unit in order, of those without a commit zeros."""
        there = {commit.unit: commit for commit in commits}

        def of(unit: int) -> Records:
            if unit in there:
                return self._records_of(there[unit], fetch)
            return np.zeros(len(self.manifest.unit_range(unit)), self.manifest.dtype)

        largest = (
            max((commit.num_bytes for commit in commits), default=0) + self.manifest.unit_bytes
        )
        return fetched(of, range(self.manifest.num_units), num_bytes=largest)

    def _where(self, commit: Commit) -> tuple[str, str]:
        """Return how a message names a unit, and the way out if it is damaged."""
        key = commit_key(self.manifest.unit_seeds(commit.seed)[0], commit.unit)
        way_out = (
            f"delete {self.storage}/{key} and {self.storage}/{commit.key} and run the dump again"
        )
        return f"cache {self}, {commit.name}", way_out

    @cached_property
    def _row(self) -> "np.dtype[Any] | None":
        """The dtype of a position's row, where a view has several; without fields where that takes
        a fit."""
        if isinstance(self.manifest.layout, One):
            return None
        codec = codec_from_dict(self.manifest.codec.to_json(), classes=self.manifest.classes)
        return codec.record_dtype


def _integers(numbers: Rows | Sequence[int], what: str) -> Rows:
    """Return whole numbers as an array.

    Raises:
        UsageError: they are none.
    """
    try:
        array = np.asarray(numbers)
    except ValueError:  # lists of different lengths
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"{what} are {quoted(numbers)}; they must be a list of whole numbers")
    return array.astype(np.int64)


def _raw_bytes(records: Records) -> memoryview:
    return np.ascontiguousarray(records).view(np.uint8).data
