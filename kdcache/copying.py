"""Copying units from cache to cache as they are, with their commits: merging caches, exporting a part of one.

Of a subset of the samples the units are the same ones, with the same rows: a row's place says which sample it is, and views,
partners and probes depend on that. What is not in the subset is zeros.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, Manifest, create_cache, open_cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.census import Unit, committed, complete, missing_units
from kdcache.cache.commit import commit_key
from kdcache.cache.fetch import fetched
from kdcache.cache.subset import samples_arrays
from kdcache.cache.writing import commit_unit, start_seed
from kdcache.cached_source import CachedNames, source_of
from kdcache.config import parse_seeds
from kdcache.errors import CacheError, MismatchError, MissingUnitError, UsageError
from kdcache.shapes import Rows
from kdcache.sources.subset import Named, are_numbers, parse_samples
from kdcache.stopping import heeding, look, until_asked
from kdcache.tracking import progress, say
from kdcache.views import Recipe


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
    for other in sources[1:]:
        if lines := sources[0].manifest.differences(other.manifest, here="there", there="here"):
            raise MismatchError(
                f"caches {sources[0]} and {other} were made otherwise ({'; '.join(lines)}); merge what was dumped alike "
                "(kdcache convert brings one to the other store)"
            )
    made = create_cache(new, sources[0].manifest, sources[0].fit(), samples=sources[0].samples)
    made.require(sources[0].manifest)
    start, seen, told, size, written = time.monotonic(), set[Unit](), [], 0, 0
    with heeding(lambda: f": {written} units written"):
        for source in sources:
            units = list(committed(source))
            elsewhere = sum(unit in seen for unit in units)
            if elsewhere:
                told_twice = f"{elsewhere} units of {source} are in an earlier cache, too"
                say(f"note: {told_twice}, whose units count")
            told.append({"cache": str(source), "units": len(units), "elsewhere": elsewhere})
            seen |= {*units}
            copied = copy_units(source, made, units)
            written, size = written + len(copied), size + sum(copied)
            look()
    return {"cache": str(made), "from": told, **_result(made, written, size, start)}


def export_cache(
    cache: str | Path,
    new: str | Path,
    *,
    seeds: str | None = None,
    units: str | None = None,
    samples: str | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Copy some seeds, units or samples of a cache to `new`; run again, it goes on where it stopped.

    Args:
        cache: the cache.
        new: the new cache; it has the same manifest, but of some samples only a manifest that says so.
        seeds: `A:B`; by default all. Of seeds that share units all are wanted.
        units: `A:B` of each seed, B left out, by default all. Units are blocks of rows, and so random samples of the source.
        samples: numbers `A:B` in the source's order, or a text file with a key on each line; by default all.
        data: spec of the source, whose keys these are; by default the tars of the cache tell, or the manifest names it.

    Returns:
        What `merge_caches` does, with `source` in the place of `from`, and how many `samples` of how many `rows` it holds.

    Raises:
        UsageError: seeds, units or samples that are not as they should be, or samples that the cache does not hold.
        MissingUnitError: a seed of which the cache holds nothing.
        MismatchError: `new` is another cache, or `data` not the cache's.
        CacheError: a damaged unit, or a folder that cannot be written; what was copied stays.
    """
    source = open_cache(cache)
    wanted, chosen = _wanted(source, seeds, units), _chosen(source, samples, data)
    manifest, start = _manifest(source, chosen), time.monotonic()
    made = create_cache(new, manifest, source.fit(), samples=chosen)
    made.require(manifest)
    copied = copied_units(source, made, wanted)
    origin = {"source": str(source), "samples": made.manifest.num_held, "rows": made.manifest.rows}
    return {"cache": str(made), **origin, **_result(made, len(copied), sum(copied), start)}


def copied_units(source: Cache, target: Cache, units: Iterable[Unit]) -> list[int]:
    """Copy those of `units` that `target` lacks, see `copy_units`; return the bytes of each.

    Raises:
        CacheError: a damaged unit, or a folder that cannot be written.
        StoppedError: a signal told the process to stop; what was copied stays.
    """
    sizes: list[int] = []
    with heeding(lambda: f": {len(sizes)} units written"):
        sizes = copy_units(source, target, units)
        look()
    return sizes


def copy_units(source: Cache, target: Cache, units: Iterable[Unit]) -> list[int]:
    """Copy those of `units` that `target` lacks, checked, each object before its commit; return the bytes of each.

    If `target` is a subset of fewer samples, units are written anew without the others. Nothing
    more is begun when the process is told to stop.

    Raises:
        CacheError: a damaged unit, or a folder that cannot be written.
    """
    there = committed(target)
    todo = [unit for unit in units if unit not in there]
    for seed in sorted({seed for seed, _ in todo}):
        start_seed(target, seed)
    sizes = []
    near = source.whole_commit(*todo[0]).num_bytes if todo else 0  # units of a cache are of about one size
    copied, manifest = _copied, source.manifest
    if target.manifest.samples != manifest.samples:
        copied = _thinned
        near += 2 * manifest.unit_rows * manifest.seeds_per_unit * manifest.dtype.itemsize  # records as read, and as written
    with progress("copy", len(todo), "units") as bar:
        wanted = until_asked(todo)
        for size in fetched(lambda unit: copied(source, target, unit), wanted, num_bytes=near):
            sizes.append(size)
            bar.advance(1)
    return sizes


def _copied(source: Cache, target: Cache, unit: Unit) -> int:
    commit, key = source.whole_commit(*unit), target.format.key(*unit)
    data = source.unit_bytes(commit)
    if not target.objects.publish(key, data) and target.objects.get(key) != data and not target.is_committed(*unit):
        raise CacheError(
            f"cache {target}: {key} is there with other bytes and without a commit, left by a killed writer; remove it "
            f"(kdcache gc {target} --older-than 0s --delete, while nothing else writes there) and run this again"
        )
    target.objects.publish(commit_key(*unit), commit.to_bytes())  # False: another writer was here, and its unit counts
    return len(data)


def _thinned(source: Cache, target: Cache, unit: Unit) -> int:
    """Write a unit without the samples that are not in the subset that `target` is."""
    commit = source.whole_commit(*unit)
    data = source.unit_bytes(commit)
    facts: dict[str, Any] = {
        "absent": commit.absent,
        "probes": commit.probes,
        "statistics": commit.statistics,
        "versions": commit.versions,
    }
    records, samples = source.decode_unit(commit, data), source.samples_of(commit, data)
    return commit_unit(target, *unit, records, samples, **facts).num_bytes


def require_unmixed(cache: Cache, way_out: str) -> None:
    """Raise a UsageError if views of a cache are mixed: of a subset that is to hold images, those of partners are lost."""
    if Recipe.from_dict(cache.manifest.recipe).mixing:
        raise UsageError(
            f"cache {cache}: recipe {cache.manifest.recipe['name']} mixes each view with another, whose image a subset "
            f"with images would not hold; {way_out}"
        )


def _chosen(source: Cache, samples: str | None, data: str | None) -> Rows | None:
    """Return the numbers of the samples that the new cache holds, rising; None if these are all."""
    if data is not None and (samples is None or are_numbers(samples)):
        raise UsageError(f"data {data} tells the keys of samples, and none are given; leave it out, or give --samples FILE")
    if samples is None:
        return source.samples
    manifest = source.manifest
    chosen = np.unique(parse_samples(samples, manifest.rows, lambda: _names(source, data)))
    if source.samples is not None and (outside := np.setdiff1d(chosen, source.samples)).size:
        raise UsageError(
            f"samples {samples}: cache {source} is a subset of {manifest.num_held} of {manifest.rows} samples, which "
            f"does not hold sample {outside[0]}; give samples that it holds, or the cache that it was exported from"
        )
    if len(chosen) == manifest.num_held:
        return source.samples
    if manifest.has_images:
        require_unmixed(source, f"convert it first (kdcache convert {source} NEW --store zarr)")
    return chosen


def _names(source: Cache, data: str | None) -> Named:
    """Return what tells the names of a cache's samples."""
    if data is None and source.manifest.store == "webdataset":
        return CachedNames(source)
    return source_of(source, data)


def _manifest(source: Cache, chosen: Rows | None) -> Manifest:
    """Return the manifest of a cache with the chosen samples of `source`."""
    if chosen is None or len(chosen) == source.manifest.num_held:
        return source.manifest
    digest, origin = arrays_digest(samples_arrays(chosen)), {"manifest": source.manifest.digest}
    made_by = {**source.manifest.made_by, "exported_from": origin}
    return replace(source.manifest, samples={"count": len(chosen), "sha256": digest}, made_by=made_by)


def _wanted(source: Cache, seeds: str | None, units: str | None) -> list[Unit]:
    """Return the units that are asked for and there."""
    manifest, held = source.manifest, list(committed(source))
    asked = {*parse_seeds(seeds)} if seeds is not None else {seed for first, _ in held for seed in manifest.unit_seeds(first)}
    numbers = _parse_units(units, manifest.num_units)
    firsts = {manifest.unit_seeds(seed)[0] for seed in asked}
    if short := sorted({seed for first in firsts for seed in manifest.unit_seeds(first)} - asked):
        raise UsageError(
            f"seeds {seeds}: {manifest.seeds_per_unit} seeds of cache {source} share each unit; ask for whole groups "
            f"({', '.join(map(str, short[:5]))} are missing)"
        )
    if absent := sorted(firsts - {first for first, _ in held}):
        raise MissingUnitError(f"cache {source} does not hold seed {absent[0]}; kdcache info shows what it holds")
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
