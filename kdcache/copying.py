"""Copying units from cache to cache as they are, with their commits: merging caches, exporting a part of one."""

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.census import Unit, committed, complete, missing_units
from kdcache.cache.commit import commit_key
from kdcache.cache.fetch import fetched
from kdcache.cache.fit_store import read_fit
from kdcache.config import parse_seeds
from kdcache.errors import CacheError, MissingUnitError, UsageError
from kdcache.tracking import progress, say


def merge_caches(new: str | Path, caches: Sequence[str | Path]) -> dict[str, Any]:
    """Copy into `new` every unit that `caches` hold; run again, it goes on where it stopped.

    Each object is checked against its commit on the way. Of a unit that several hold that of the first counts.

    Args:
        new: a new cache, which gets the manifest of the first, or one that is there already, whose own units count first.
        caches: they agree in all that decides what a record means.

    Returns:
        `cache` (the new one), `units_written` now, their `bytes`, the `seconds` they took, and `from`: of each cache its
        `cache`, `units`, and how many of them were `elsewhere`, in an earlier one. Also `complete_seeds`, and the `missing`
        units of others by seed.

    Raises:
        MismatchError: caches that were made otherwise; the fields that differ are named.
        CacheError: a damaged unit, or a folder that cannot be written; what was copied stays.
    """
    sources = [open_cache(path) for path in caches]
    made = create_cache(new, sources[0].manifest, fit_of(sources[0]))
    for source in sources:
        made.require(source.manifest)
    start, seen, told, size, written = time.monotonic(), set[Unit](), [], 0, 0
    for source in sources:
        units = list(committed(source))
        elsewhere = sum(unit in seen for unit in units)
        if elsewhere:
            say(f"note: {elsewhere} units of {source.folder} are in an earlier cache, too, whose units count")
        told.append({"cache": str(source.folder), "units": len(units), "elsewhere": elsewhere})
        seen |= {*units}
        copied = copy_units(source, made, units)
        written, size = written + len(copied), size + sum(copied)
    return {"cache": str(made.folder), "from": told, **_result(made, written, size, start)}


def export_cache(cache: str | Path, new: str | Path, *, seeds: str | None = None, units: str | None = None) -> dict[str, Any]:
    """Copy some seeds, or some units of each, of a cache to `new`; run again, it goes on where it stopped.

    Args:
        cache: the cache.
        new: the new cache; it has the same manifest.
        seeds: `A:B`; by default all. Of seeds that share units all are wanted.
        units: `A:B` of each seed, B left out, by default all. Units are blocks of rows, and so random samples of the source.

    Returns:
        What `merge_caches` does, with `source` in the place of `from`.

    Raises:
        UsageError: seeds or units that are not as they should be.
        MissingUnitError: a seed of which the cache holds nothing.
        MismatchError: `new` is another cache.
        CacheError: a damaged unit, or a folder that cannot be written; what was copied stays.
    """
    source = open_cache(cache)
    wanted = _wanted(source, seeds, units)
    made, start = create_cache(new, source.manifest, fit_of(source)), time.monotonic()
    made.require(source.manifest)
    copied = copy_units(source, made, wanted)
    return {"cache": str(made.folder), "source": str(source.folder), **_result(made, len(copied), sum(copied), start)}


def copy_units(source: Cache, target: Cache, units: Iterable[Unit]) -> list[int]:
    """Copy those of `units` that `target` lacks, checked, each object before its commit; return the bytes of each.

    Raises:
        CacheError: a damaged unit, or a folder that cannot be written.
    """
    there = committed(target)
    todo = [unit for unit in units if unit not in there]
    for seed in sorted({seed for seed, _ in todo}):
        target.start_seed(seed)
    sizes = []
    near = source.whole_commit(*todo[0]).num_bytes if todo else 0  # units of a cache are of about one size
    with progress("copy", len(todo), "units") as bar:
        for size in fetched(lambda unit: _copied(source, target, unit), todo, num_bytes=near):
            sizes.append(size)
            bar.advance(1)
    return sizes


def _copied(source: Cache, target: Cache, unit: Unit) -> int:
    commit, key = source.whole_commit(*unit), target.format.key(*unit)
    data = source.unit_bytes(commit)
    if not target.folder.publish(key, data) and target.folder.get(key) != data and not target.is_committed(*unit):
        raise CacheError(
            f"cache {target.folder}: {key} is there with other bytes and without a commit, left by a killed writer; remove it "
            f"(kdcache gc {target.folder} --older-than 0s --delete, while nothing else writes there) and run this again"
        )
    target.folder.publish(commit_key(*unit), commit.to_bytes())  # False: another writer was here, and its unit counts
    return len(data)


def fit_of(cache: Cache) -> dict[str, np.ndarray] | None:
    """Return the arrays of the codec's fit; None of a codec that has none.

    Raises:
        CacheError: they are absent or damaged.
    """
    digest = cache.manifest.codec.get("fit")
    return read_fit(cache.folder, digest) if digest is not None else None


def _wanted(source: Cache, seeds: str | None, units: str | None) -> list[Unit]:
    """Return the units that are asked for and there."""
    manifest, held = source.manifest, list(committed(source))
    asked = {*parse_seeds(seeds)} if seeds is not None else {seed for first, _ in held for seed in manifest.unit_seeds(first)}
    numbers = _parse_units(units, manifest.num_units)
    firsts = {manifest.unit_seeds(seed)[0] for seed in asked}
    if short := sorted({seed for first in firsts for seed in manifest.unit_seeds(first)} - asked):
        raise UsageError(
            f"seeds {seeds}: {manifest.seeds_per_unit} seeds of cache {source.folder} share each unit; ask for whole groups "
            f"({', '.join(map(str, short[:5]))} are missing)"
        )
    if absent := sorted(firsts - {first for first, _ in held}):
        raise MissingUnitError(f"cache {source.folder} does not hold seed {absent[0]}; kdcache info shows what it holds")
    return [(first, unit) for first, unit in held if first in firsts and unit in numbers]


def _parse_units(text: str | None, most: int) -> range:
    if text is None:
        return range(most)
    found = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    numbers = range(int(found[1]), int(found[2])) if found else range(0)
    if not numbers or numbers.stop > most:
        raise UsageError(f"units {text!r} are not of the form A:B with B left out; the cache has units 0:{most} of each seed")
    return numbers


def _result(made: Cache, written: int, size: int, start: float) -> dict[str, Any]:
    missing = missing_units(made.manifest, committed(made))
    return {
        "units_written": written,
        "bytes": size,
        "seconds": time.monotonic() - start,
        "complete_seeds": complete(missing),
        "missing": {seed: units for seed, units in missing.items() if units},
    }
