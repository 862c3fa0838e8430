"""What lies in a cache, told by its listing alone: which units are committed, and what belongs to
none."""

import re
from dataclasses import dataclass, field

from kdcache.cache.arrays import ROOTS, arrays_path
from kdcache.cache.cache import Cache
from kdcache.cache.documents.extent import is_extent
from kdcache.cache.formats.protocol import Unit, committed_unit
from kdcache.cache.storage.protocol import Entry, is_temporary

CARD = "README.md"
"""What a cache that was published says of itself; nothing reads it."""
MOST_KEPT = 100_000
"""Temporary files, and files that are none of a cache's, that are kept by name."""
_ARRAYS = re.compile(rf"({'|'.join(ROOTS)})/[0-9a-f]{{16}}/.+")


@dataclass(frozen=True)
class Inventory:
    """The objects of a cache, by what they are."""

    commits: dict[Unit, Entry]
    """By unit, in order."""
    objects: dict[Unit, Entry] = field(default_factory=dict)
    """Those of committed units."""
    orphaned: list[Entry] = field(default_factory=list)
    """Unit objects without commit, whose writer is at work or was killed, and arrays of writers
    that came second."""
    temporary: list[Entry] = field(default_factory=list)
    """What writers have not given its name yet, and never will if they were killed; the first of
    these, see `MOST_KEPT`."""
    foreign: list[Entry] = field(default_factory=list)
    """What is not of this layout; the first of these."""


def take_inventory(cache: Cache) -> Inventory:
    """Return what lies in `cache`, from a listing of everything and, after it, one of the commits.

    In this order, since a unit may be committed meanwhile: its object is then not taken for
    orphaned.

    Raises:
        CacheError: folders that cannot be listed, or more seeds than a cache may have.
    """
    layout = _Layout(cache)
    units: dict[Unit, list[Entry]] = {}
    orphaned: list[Entry] = []
    temporary: list[Entry] = []
    foreign: list[Entry] = []
    for entry in cache.storage.walk():
        if is_temporary(entry.key):
            _keep(temporary, entry)
        elif unit := cache.format.unit_of(entry.key):
            units.setdefault(unit, []).append(entry)
        elif layout.is_left_over(entry.key):
            orphaned.append(entry)
        elif not layout.is_own(entry.key):
            _keep(foreign, entry)
    commits = cache.committed()
    objects: dict[Unit, Entry] = {}
    for unit, entries in sorted(units.items()):
        if unit in commits:
            objects[unit] = entries[-1]
        else:
            orphaned += entries
    return Inventory(commits, objects, sorted(orphaned), sorted(temporary), sorted(foreign))


class _Layout:
    """The keys of a cache beside those of its units' objects."""

    def __init__(self, cache: Cache) -> None:
        self._manifest = cache.manifest
        self._folders: dict[str, str] = {}
        """Of arrays, by their root."""
        self._single = {"zarr.json", CARD}
        for root, digest in cache.manifest.arrays.items():
            self._folders[root] = f"{arrays_path(root, digest)}/"
            self._single.add(f"{root}/zarr.json")
        self._beside = cache.format.metadata(0).keys()

    def is_left_over(self, key: str) -> bool:
        """Return whether a key is that of an array of a writer that came second."""
        match = _ARRAYS.fullmatch(key)
        return match is not None and match[1] in self._folders and not self._is_of_arrays(key)

    def is_own(self, key: str) -> bool:
        """Return whether a key is one that kdcache gives."""
        if key in self._single or committed_unit(self._manifest, key):
            return True
        return is_extent(key) or self._is_of_arrays(key) or self._is_beside(key)

    def _is_beside(self, key: str) -> bool:
        """Return whether a key is of what lies beside the units: it has the same names for all
        seeds."""
        seed = _first_number(key)
        return any(key == _of_seed(name, seed) for name in self._beside)

    def _is_of_arrays(self, key: str) -> bool:
        return key.startswith(tuple(self._folders.values()))


def _keep(entries: list[Entry], entry: Entry) -> None:
    if len(entries) < MOST_KEPT:
        entries.append(entry)


def _of_seed(name: str, seed: int) -> str:
    return name.replace(f"/{0:05d}/", f"/{seed:05d}/")


def _first_number(key: str) -> int:
    match = re.search(r"[0-9]{5,10}", key)
    if match is None:
        return 0
    return int(match[0])
