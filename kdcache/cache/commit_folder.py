"""The commits of a cache: listed, read, and checked against its manifest."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from kdcache.cache.documents.commit import Commit, commit_key, numbers_in, unit_name
from kdcache.cache.documents.limits import MOST_SEEDS, MOST_UNITS
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.formats.protocol import Unit, UnitFormat, committed_unit
from kdcache.cache.gaps import Gaps
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.protocol import Entry, Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError

_ROOM = 2
"""Bytes that are kept free for each byte that a commit may have while it is fetched."""


class CommitFolder:
    """The folder of a cache's commits."""

    def __init__(self, storage: Storage, manifest: Manifest, unit_format: UnitFormat) -> None:
        """Take where the cache is, and how its units are stored."""
        self._storage = storage
        self._manifest = manifest
        self._format = unit_format

    @property
    def room(self) -> int:
        """Bytes that `fetched` is to keep free for each commit."""
        return _ROOM * self._manifest.commit_limits[0]

    def unit_name(self, seed: int, unit: int) -> str:
        """Return how messages name a unit."""
        rows = self._manifest.unit_range(unit)
        return unit_name(seed, unit, rows.start, rows.stop)

    def entries(self) -> dict[Unit, Entry]:
        """Return the commits of all seeds by unit, in order, from one listing.

        Raises:
            CacheError: commits of more seeds than a cache may have.
        """
        entries: dict[Unit, Entry] = {}
        for entry in self._storage.walk("commits"):
            unit = committed_unit(self._manifest, entry.key)
            if unit:
                entries[unit] = entry
        firsts = {first for first, _ in entries}
        count = len(firsts) * self._manifest.seeds_per_unit
        if count > MOST_SEEDS:
            raise CacheError(
                f"cache {self._storage} has commits of {count} seeds; it may have {MOST_SEEDS}"
            )
        return dict(sorted(entries.items()))

    def units(self) -> list[Unit]:
        """Return the committed units of all seeds, each once, in order; errors as `entries`."""
        total = self._manifest.num_units
        return [unit for unit in self.entries() if unit[1] < total]

    def seeds(self) -> list[int]:
        """Return the seeds of which at least one unit is committed."""
        firsts = {first for first, _ in self.units()}
        return self._groups_of(sorted(firsts))

    def complete_seeds(self) -> list[int]:
        """Return the seeds of which every unit is committed."""
        counts = Counter(first for first, _ in self.units())
        complete: list[int] = []
        for first, count in counts.items():
            if count == self._manifest.num_units:
                complete.append(first)
        return self._groups_of(complete)

    def units_of(self, seed: int) -> list[int]:
        """Return the committed units of `seed`, rising."""
        names = self._storage.list(f"commits/{self._first_of(seed):05d}")
        return numbers_in(names, "{:06d}.json", range(MOST_UNITS))

    def missing_units(self, seed: int) -> Gaps:
        """Return the units of `seed` that are not committed yet."""
        total = self._manifest.num_units
        committed = self.units_of(seed)  # forged ones may be past the last unit
        return Gaps(committed[: bisect_left(committed, total)], total)

    def is_committed(self, seed: int, unit: int) -> bool:
        """Return whether there is a commit of a unit."""
        return self._storage.exists(commit_key(self._first_of(seed), unit))

    def all_of(self, seed: int) -> list[Commit]:
        """Return the commits of all units of `seed`, in order; errors as `require_complete`."""
        self.require_complete(seed)
        return self.commits_of(seed, range(self._manifest.num_units))

    def require_complete(self, seed: int) -> None:
        """Check that all units of `seed` are committed, by a listing; no commit is read.

        Raises:
            MissingUnitError: units that are not committed, or a seed of which the cache holds
                nothing.
        """
        total = self._manifest.num_units
        missing = self.missing_units(seed)
        if len(missing) == total:
            seeds = ", ".join(map(str, self.seeds())) or "none"
            raise MissingUnitError(
                f"cache {self._storage} does not hold seed {seed} (it holds: {seeds}); dump it"
                " first"
            )
        if missing:
            raise MissingUnitError(
                f"cache {self._storage} lacks {len(missing)} of {total} units of seed {seed}, the"
                f" first is {self.unit_name(seed, missing[0])}; run the same dump-teacher command"
                " again to finish it"
            )

    def commits_of(self, seed: int, units: Sequence[int]) -> list[Commit]:
        """Return the commits of some units of `seed`, in order, with what they say of this seed."""

        def commit_of_seed(unit: int) -> Commit:
            return self.commit(seed, unit).of_seed(seed)

        return list(fetched(commit_of_seed, units, num_bytes=self.room))

    def commit(self, seed: int, unit: int) -> Commit:
        """Return a unit's commit, with what it says of all its seeds.

        Raises:
            MissingUnitError: the unit is not committed.
            DamagedUnitError: the commit is not what was written.
        """
        return read_twice(lambda is_fresh: self._read(seed, unit, is_fresh))

    def _read(self, seed: int, unit: int, is_fresh: bool) -> Commit:
        first = self._first_of(seed)
        key = commit_key(first, unit)
        most_bytes, most_values = self._manifest.commit_limits
        try:
            data = self._storage.get(key, most=most_bytes, is_fresh=is_fresh)
        except FileNotFoundError:
            raise MissingUnitError(
                f"cache {self._storage} does not hold {self.unit_name(seed, unit)}; run"
                " dump-teacher with this seed"
            ) from None
        where = f"cache {self._storage}, {self.unit_name(seed, unit)}"
        paths = (f"{self._storage}/{key}", f"{self._storage}/{self._format.key(first, unit)}")
        commit = Commit.from_bytes(data, where, paths=paths, most_values=most_values)
        mismatch = self._mismatch(commit, seed, unit)
        if mismatch is not None:
            way_out = f"delete {' and '.join(paths)} and run the dump again"
            raise DamagedUnitError(f"{where}: its commit {mismatch}; {way_out}")
        return commit

    def _mismatch(self, commit: Commit, seed: int, unit: int) -> str | None:
        """Return what a commit is that is not the unit's own; None if it is."""
        seeds = self._manifest.unit_seeds(seed)
        rows = self._manifest.unit_range(unit)
        place = commit.seed, commit.unit, commit.start, commit.stop
        if not rows or place != (seeds[0], unit, rows.start, rows.stop):
            return f"is that of {commit.name}"
        mismatch = commit.mismatch(self._format.key(seeds[0], unit), seeds)
        if mismatch:
            return f"speaks of {mismatch}"
        most = self._format.most_bytes(unit)
        if commit.num_bytes > most:
            return (
                f"speaks of an object of {commit.num_bytes} bytes, and such a unit has at most"
                f" {most}"
            )
        return None

    def _first_of(self, seed: int) -> int:
        """Return the first of the seeds that share units with `seed`."""
        return self._manifest.unit_seeds(seed)[0]

    def _groups_of(self, firsts: Iterable[int]) -> list[int]:
        """Return all seeds of the groups that begin with `firsts`."""
        seeds: list[int] = []
        for first in firsts:
            seeds += self._manifest.unit_seeds(first)
        return seeds
