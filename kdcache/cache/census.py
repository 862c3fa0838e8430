"""What lies in a cache, told by its listing alone: which units are committed, and what belongs to none."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache as remembered

from kdcache.cache.arrays import ROOTS, arrays_path
from kdcache.cache.cache import Cache
from kdcache.cache.extent import is_extent
from kdcache.cache.manifest import Manifest
from kdcache.cache.objects import Entry, is_temporary
from kdcache.cache.units import committed_unit

Unit = tuple[int, int]
"""The first seed of a unit, and its number."""
CARD = "README.md"
"""What a cache that was published says of itself; nothing reads it."""
_ARRAYS = re.compile(rf"({'|'.join(ROOTS)})/[0-9a-f]{{16}}/.+")


@dataclass(frozen=True)
class Census:
    """The objects of a cache, by what they are."""

    commits: dict[Unit, Entry]
    """By unit, in order."""
    objects: dict[Unit, Entry] = field(default_factory=dict)
    """Those of committed units."""
    orphaned: list[Entry] = field(default_factory=list)
    """Unit objects without commit, whose writer is at work or was killed, and arrays of writers that came second."""
    temporary: list[Entry] = field(default_factory=list)
    """What writers have not given its name yet, and never will if they were killed."""
    foreign: list[Entry] = field(default_factory=list)
    """What is not of this layout."""


def take_census(cache: Cache) -> Census:
    """Return what lies in `cache`, from a listing of everything and, after it, one of the commits.

    In this order, since a unit may be committed meanwhile: its object is then not taken for orphaned.
    """
    entries = [*cache.objects.walk()]
    census = Census(committed(cache))
    named = {root: f"{arrays_path(root, digest)}/" for root, digest in cache.manifest.arrays.items()}
    ours = tuple(named.values())
    beside = remembered(lambda seed: cache.format.metadata(seed).keys())
    for entry in sorted(entries):
        key = entry.key
        if is_temporary(key):
            census.temporary.append(entry)
        elif unit := cache.format.unit_of(key):
            if unit in census.commits:
                census.objects[unit] = entry
            else:
                census.orphaned.append(entry)
        elif (found := _ARRAYS.fullmatch(key)) and found[1] in named and not key.startswith(ours):
            census.orphaned.append(entry)
        elif not (
            key in ("zarr.json", CARD)
            or committed_unit(cache.manifest, key)
            or is_extent(key)
            or key in {f"{root}/zarr.json" for root in named}
            or key.startswith(ours)
            or key in beside(_first_number(key))
        ):
            census.foreign.append(entry)
    return census


def committed(cache: Cache) -> dict[Unit, Entry]:
    """Return the commits of `cache` by unit, in order, from a listing of them; none is read."""
    entries = ((committed_unit(cache.manifest, entry.key), entry) for entry in cache.objects.walk("commits"))
    return dict(sorted((unit, entry) for unit, entry in entries if unit))


def missing_units(manifest: Manifest, units: Iterable[Unit]) -> dict[int, list[int]]:
    """Return the units that are missing of each seed of which `units` has at least one, in order; none of a complete one."""
    held: dict[int, set[int]] = {}
    for first, unit in units:
        held.setdefault(first, set()).add(unit)
    every = range(manifest.num_units)
    return {
        seed: [unit for unit in every if unit not in held[first]]
        for first in sorted(held)
        for seed in manifest.unit_seeds(first)
    }


def complete(missing: Mapping[int, list[int]]) -> list[int]:
    """Return the seeds that lack nothing."""
    return [seed for seed, units in missing.items() if not units]


def _first_number(key: str) -> int:
    found = re.search(r"[0-9]{5,10}", key)
    return int(found[0]) if found else 0
