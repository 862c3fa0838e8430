"""The units of a cache as their commits tell: listed, read, and checked against its manifest."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from kdcache.cache.documents.commit import Commit, commit_key, numbers_in, unit_name
from kdcache.cache.documents.limits import MOST_SEEDS, MOST_UNITS
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.formats.protocol import Unit, UnitFormat, committed_unit
from kdcache.cache.formats.tar import TarFormat
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.cache.gaps import Gaps
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.protocol import Entry, Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError

_ROOM = 2
"""Bytes that are kept free for each byte that a commit may have while it is fetched."""


class CommittedUnits:
    """The units of a cache as their commits tell."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        """Take where the cache is, and what its manifest says."""
        self.storage = storage
        self.manifest = manifest
        kind = TarFormat if manifest.store == "webdataset" else ZarrFormat
        self.format: UnitFormat = kind.of(manifest)

    def __str__(self) -> str:
        """Return where it is, for messages: a folder or an address."""
        return str(self.storage)

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
        entries: dict[Unit, Entry] = {}
        for entry in self.storage.walk("commits"):
            unit = committed_unit(self.manifest, entry.key)
            if unit:
                entries[unit] = entry
        firsts = {first for first, _ in entries}
        count = len(firsts) * self.manifest.seeds_per_unit
        if count > MOST_SEEDS:
            raise CacheError(f"cache {self} has commits of {count} seeds; it may have {MOST_SEEDS}")
        return dict(sorted(entries.items()))

    def units(self) -> list[Unit]:
        """Return the committed units of all seeds, each once, in order; errors as `committed`."""
        total = self.manifest.num_units
        return [unit for unit in self.committed() if unit[1] < total]

    def seeds(self) -> list[int]:
        """Return the seeds of which at least one unit is committed."""
        firsts = {first for first, _ in self.units()}
        return self._groups_of(sorted(firsts))

    def complete_seeds(self) -> list[int]:
        """Return the seeds of which every unit is committed."""
        counts = Counter(first for first, _ in self.units())
        complete: list[int] = []
        for first, count in counts.items():
            if count == self.manifest.num_units:
                complete.append(first)
        return self._groups_of(complete)

    def committed_units(self, seed: int) -> list[int]:
        """Return the committed units of `seed`, rising."""
        names = self.storage.list(f"commits/{self._first_of(seed):05d}")
        return numbers_in(names, "{:06d}.json", range(MOST_UNITS))

    def missing_units(self, seed: int) -> Gaps:
        """Return the units of `seed` that are not committed yet."""
        total = self.manifest.num_units
        committed = self.committed_units(seed)  # forged ones may be past the last unit
        return Gaps(committed[: bisect_left(committed, total)], total)

    def is_committed(self, seed: int, unit: int) -> bool:
        """Return whether a unit can be read."""
        return self.storage.exists(commit_key(self._first_of(seed), unit))

    def commits(self, seed: int) -> list[Commit]:
        """Return the commits of all units of `seed`, in order; errors as `require_complete`."""
        self.require_complete(seed)
        return self._commits_of(seed, range(self.manifest.num_units))

    def require_complete(self, seed: int) -> None:
        """Check that all units of `seed` are committed, by a listing; no commit is read.

        Raises:
            MissingUnitError: units that are not committed, or a seed of which the cache holds
                nothing.
        """
        total = self.manifest.num_units
        missing = self.missing_units(seed)
        if len(missing) == total:
            seeds = ", ".join(map(str, self.seeds())) or "none"
            raise MissingUnitError(
                f"cache {self} does not hold seed {seed} (it holds: {seeds}); dump it first"
            )
        if missing:
            raise MissingUnitError(
                f"cache {self} lacks {len(missing)} of {total} units of seed {seed}, the"
                f" first is {self.unit_name(seed, missing[0])}; run the same dump-teacher command"
                " again to finish it"
            )

    def held_commits(self, seed: int) -> list[Commit]:
        """Return the commits of the units of `seed` that are there, in order: of a seed that need
        not be complete."""
        return self._commits_of(seed, self.committed_units(seed))

    def _commits_of(self, seed: int, units: Sequence[int]) -> list[Commit]:
        """Return the commits of some units of `seed`, in order, with what they say of this seed."""

        def commit_of(unit: int) -> Commit:
            return self.commit_of(seed, unit)

        return list(fetched(commit_of, units, num_bytes=self.commit_room))

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
        return read_twice(lambda is_fresh: self._read(seed, unit, is_fresh))

    def _read(self, seed: int, unit: int, is_fresh: bool) -> Commit:
        first = self._first_of(seed)
        key = commit_key(first, unit)
        most_bytes, most_values = self.manifest.commit_limits
        try:
            data = self.storage.get(key, most=most_bytes, is_fresh=is_fresh)
        except FileNotFoundError:
            raise MissingUnitError(
                f"cache {self} does not hold {self.unit_name(seed, unit)}; run"
                " dump-teacher with this seed"
            ) from None
        where = f"cache {self}, {self.unit_name(seed, unit)}"
        paths = (f"{self}/{key}", f"{self}/{self.format.key(first, unit)}")
        commit = Commit.from_bytes(data, where, paths=paths, most_values=most_values)
        mismatch = self._mismatch(commit, seed, unit)
        if mismatch is not None:
            way_out = f"delete {' and '.join(paths)} and run the dump again"
            raise DamagedUnitError(f"{where}: its commit {mismatch}; {way_out}")
        return commit

    def _mismatch(self, commit: Commit, seed: int, unit: int) -> str | None:
        """Return what a commit is that is not the unit's own; None if it is."""
        seeds = self.manifest.unit_seeds(seed)
        rows = self.manifest.unit_range(unit)
        place = commit.seed, commit.unit, commit.start, commit.stop
        if not rows or place != (seeds[0], unit, rows.start, rows.stop):
            return f"is that of {commit.name}"
        mismatch = commit.mismatch(self.format.key(seeds[0], unit), seeds)
        if mismatch:
            return f"speaks of {mismatch}"
        most = self.format.most_bytes(unit)
        if commit.num_bytes > most:
            return (
                f"speaks of an object of {commit.num_bytes} bytes, and such a unit has at most"
                f" {most}"
            )
        return None

    def _first_of(self, seed: int) -> int:
        """Return the first of the seeds that share units with `seed`."""
        return self.manifest.unit_seeds(seed)[0]

    def _groups_of(self, firsts: Iterable[int]) -> list[int]:
        """Return all seeds of the groups that begin with `firsts`."""
        seeds: list[int] = []
        for first in firsts:
            seeds += self.manifest.unit_seeds(first)
        return seeds
