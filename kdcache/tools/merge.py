"""Copying units from cache to cache as they are, with their commits: merging caches, exporting a
part of one.

Of a subset of the samples the units are the same ones, with the same rows: a row's place says which
sample it is, and views, partners and probes depend on that. What is not in the subset is zeros.
"""

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, Manifest, create_cache, open_cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.committing import commit_unit, require_manifest, require_written, start_seed
from kdcache.cache.coverage import ask_for_units, coverage_of
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import ExportedFrom, SamplesEntry
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import require_apart
from kdcache.cache.prefetch import fetched
from kdcache.cache.source import CachedNames, source_of
from kdcache.cache.source_check import source_differences
from kdcache.cache.source_list import ListedNames, read_list
from kdcache.cache.storage.rereading import agreed_bytes
from kdcache.cache.subset import samples_arrays
from kdcache.config.arguments import checked_arguments
from kdcache.config.files import parse_seeds
from kdcache.errors import (
    CacheError,
    LargeObjectError,
    MismatchError,
    MissingUnitError,
    UsageError,
    quoted,
)
from kdcache.runtime.console import progress, say
from kdcache.runtime.contrast import joined
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.runtime.wording import counted
from kdcache.shapes import Rows
from kdcache.sources.selection import Named, are_numbers, parse_samples


@checked_arguments
def merge_caches(new: str | Path, caches: Sequence[str | Path]) -> dict[str, Any]:
    """Copy into `new` every unit that `caches` hold; run again, it goes on where it stopped.

    Each object is checked against its commit on the way. Of a unit that several hold that of the
    first counts.

    Args:
        new: a new cache, which gets the manifest of the first, or one that is there already, whose
            own units count first.
        caches: they agree in all that decides what a record means.

    Returns:
        `cache` (the new one), `units_written` now, their `bytes`, the `seconds` they took, and
        `from`: of each cache its `cache`, `units`, and how many of them were `elsewhere`, in an
            earlier one. Also what `Coverage.to_json` tells of the
        new one, which is asked for all that `caches` are.

    Raises:
        MismatchError: caches that were made otherwise; the fields that differ are named.
        CacheError: a damaged unit, or a folder that cannot be written; what was copied stays.
    """
    if not len(caches):
        raise UsageError("there are no caches to merge; give one at least")
    require_apart(new, caches)
    sources = [open_cache(path) for path in caches]
    first = sources[0]
    for other in sources[1:]:
        _require_alike(first, other)
    target = created_from(new, first, first.manifest, first.samples)
    start = time.monotonic()
    merged_units = set[Unit]()
    origins = []
    num_bytes = 0
    num_written = 0
    for source in sources:
        ask_for_units(target, coverage_of(source).asked)
    with heeding(lambda: f": {num_written} units written"):
        for source in sources:
            units = list(source.committed())
            num_elsewhere = len(merged_units.intersection(units))
            if num_elsewhere:
                _note_elsewhere(source, num_elsewhere)
            origins.append({"cache": str(source), "units": len(units), "elsewhere": num_elsewhere})
            merged_units.update(units)
            sizes = copy_units(source, target, units)
            num_written += len(sizes)
            num_bytes += sum(sizes)
            look()
    require_written(target, merged_units)
    result = copied_result(target, num_written, num_bytes, start)
    return {"cache": str(target), "from": origins, **result}


def created_from(new: str | Path, source: Cache, manifest: Manifest, samples: Rows | None) -> Cache:
    """Return the cache at `new` with this manifest, made with what readers need of `source` if it
    is not there yet."""
    listing = source.source_arrays()
    target = create_cache(new, manifest, source.fit(), samples=samples, source=listing)
    target.require(manifest)
    return target


def _note_elsewhere(source: Cache, num_elsewhere: int) -> None:
    """Say how many units of a cache are in an earlier one."""
    verb = "are"
    if num_elsewhere == 1:
        verb = "is"
    units = counted(num_elsewhere, "unit")
    say(f"note: {units} of {source} {verb} in an earlier cache, too, which counts")


def _require_alike(first: Cache, other: Cache) -> None:
    """Raise a MismatchError if two caches differ in what decides what a record means."""
    lines = first.manifest.differences(other.manifest, own_place="there", other_place="here")
    source_lines = source_differences(first, other)
    if source_lines:
        other_lines = [line for line in lines if not line.startswith("source.")]
        lines = [*source_lines, *other_lines]
    if lines:
        raise MismatchError(
            f"caches {first} and {other} were made otherwise ({joined(lines)}); merge what was"
            " dumped alike (kdcache convert brings one to the other store)"
        )


@checked_arguments
def export_cache(
    cache: str | Path,
    new: str | Path,
    *,
    seeds: str | None = None,
    units: str | None = None,
    samples: str | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Copy some seeds, units or samples of a cache to `new`; run again, it goes on where it
    stopped.

    Args:
        cache: the cache.
        new: the new cache; it has the same manifest, but of some samples only a manifest that says
            so.
        seeds: `A:B`; by default all. Of seeds that share units all are wanted.
        units: `A:B` of each seed, B left out, by default all. Units are blocks of rows, and so
            random samples of the source.
        samples: numbers `A:B` in the source's order, or a text file with a key on each line; by
            default all.
        data: spec of the source, whose keys these are; by default the tars of the cache tell.

    Returns:
        What `merge_caches` does, with `source` in the place of `from`, and how many `samples` of
        how many `rows` it holds.

    Raises:
        UsageError: seeds, units or samples that are not as they should be, or samples that the
            cache does not hold.
        MissingUnitError: a seed of which the cache holds nothing.
        MismatchError: `new` is another cache, or `data` not the cache's.
        CacheError: a damaged unit, or a folder that cannot be written; what was copied stays.
    """
    require_apart(new, [cache])
    source = open_cache(cache)
    requested_units = _requested_units(source, seeds, units)
    numbers = _sample_numbers(source, samples, data)
    manifest = _manifest(source, numbers)
    start = time.monotonic()
    target = created_from(new, source, manifest, numbers)
    ask_for_units(target, requested_units)
    present_units = []
    for seed, unit in source.committed():
        if unit in requested_units.get(seed, ()):
            present_units.append((seed, unit))
    sizes = copied_units(source, target, present_units)
    require_written(target, present_units)
    return {
        "cache": str(target),
        "source": str(source),
        "samples": target.manifest.num_held,
        "rows": target.manifest.rows,
        **copied_result(target, len(sizes), sum(sizes), start),
    }


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
    """Copy those of `units` that `target` lacks, checked, each object before its commit; return the
    bytes of each.

    If `target` is a subset of fewer samples, units are written anew without the others. Nothing
    more is begun when the process is told to stop.

    Raises:
        CacheError: a damaged unit, or a folder that cannot be written.
    """
    present_units = target.committed()
    todo = [unit for unit in units if unit not in present_units]
    unit_size = 0
    if todo:
        target.storage.probe()
        # units of a cache are of about one size
        unit_size = source.whole_commit(*todo[0]).num_bytes
    for seed in sorted({seed for seed, _ in todo}):
        start_seed(target, seed)
    copy_unit = _copied
    manifest = source.manifest
    if target.manifest.samples != manifest.samples:
        copy_unit = _thinned
        unit_size += 2 * manifest.unit_bytes  # records as read, and as written
    sizes = []
    with progress("copy", len(todo), "units") as bar:
        copies = fetched(
            lambda unit: copy_unit(source, target, unit), until_stopped(todo), num_bytes=unit_size
        )
        for size in copies:
            sizes.append(size)
            bar.advance(1)
    return sizes


def _copied(source: Cache, target: Cache, unit: Unit) -> int:
    """Copy a unit as it is; return its bytes."""
    commit = source.whole_commit(*unit)
    key = target.format.key(*unit)
    data = source.unit_bytes(commit)
    require_manifest(target)
    is_ours = target.storage.publish(key, data)
    if not is_ours and not _is_there(target, key, data) and not target.is_committed(*unit):
        raise CacheError(
            f"cache {target}: {key} is there with other bytes and without a commit, left by a"
            f" killed writer; remove it (kdcache gc {target} --older-than 0s --delete, while"
            " nothing else writes there) and run this again"
        )
    # False: another writer was here, and its unit counts
    target.storage.publish(commit_key(*unit), commit.to_bytes())
    return len(data)


def _is_there(target: Cache, key: str, data: bytes) -> bool:
    """Return whether an object that is there has these bytes."""
    try:
        return agreed_bytes(target.storage, key, most=len(data)) == data
    except LargeObjectError:
        return False


def _thinned(source: Cache, target: Cache, unit: Unit) -> int:
    """Write a unit without the samples that are not in the subset that `target` is; return its
    bytes."""
    commit = source.whole_commit(*unit)
    data = source.unit_bytes(commit)
    new_commit = commit_unit(
        target,
        *unit,
        source.decode_unit(commit, data),
        source.samples_of(commit, data),
        absent=commit.absent,
        probes=commit.probes,
        statistics=commit.statistics,
        versions=commit.versions,
    )
    return new_commit.num_bytes


def require_unmixed(cache: Cache, way_out: str) -> None:
    """Raise a UsageError if views of a cache are mixed: of a subset that is to hold images, those
    of partners are lost."""
    if cache.recipe.mixing:
        raise UsageError(
            f"cache {cache}: recipe {cache.manifest.recipe.name} mixes each view with another,"
            f" whose image a subset with images would not hold; {way_out}"
        )


def _sample_numbers(source: Cache, samples: str | None, data: str | None) -> Rows | None:
    """Return the numbers of the samples that the new cache holds, rising; None if these are all."""
    if data is not None and (samples is None or are_numbers(samples)):
        raise UsageError(
            f"data {data} tells the keys of samples, and none are given; leave it out, or give"
            " --samples FILE"
        )
    if samples is None:
        return source.samples
    manifest = source.manifest
    numbers = np.unique(parse_samples(samples, manifest.rows, lambda: _names(source, data)))
    _require_samples(source, samples, numbers)
    if len(numbers) == manifest.num_held:
        return source.samples
    if manifest.has_images:
        require_unmixed(source, f"convert it first (kdcache convert {source} NEW --store zarr)")
    return numbers


def _require_samples(source: Cache, samples: str, numbers: Rows) -> None:
    """Raise a UsageError if a cache is a subset that does not hold samples of these numbers."""
    if source.samples is None:
        return
    absent_numbers = np.setdiff1d(numbers, source.samples)
    if absent_numbers.size:
        manifest = source.manifest
        raise UsageError(
            f"samples {samples}: cache {source} is a subset of {manifest.num_held} of"
            f" {manifest.rows} samples, which does not hold sample {absent_numbers[0]}; give"
            " samples that it holds, or the cache that it was exported from"
        )


def _names(source: Cache, data: str | None) -> Named:
    """Return what tells the names of a cache's samples."""
    if data is not None:
        return source_of(source, data)
    listing = read_list(source)
    if listing is not None:
        return ListedNames(f"cache:{source}", listing.names)
    if source.manifest.store == "webdataset":
        return CachedNames(source)
    return source_of(source, data)


def _manifest(source: Cache, samples: Rows | None) -> Manifest:
    """Return the manifest of a cache with some samples of `source`."""
    manifest = source.manifest
    if samples is None or len(samples) == manifest.num_held:
        return manifest
    digest = arrays_digest(samples_arrays(samples))
    origin = ExportedFrom(manifest=manifest.digest)
    return replace(
        manifest,
        samples=SamplesEntry(count=len(samples), sha256=digest),
        made_by=replace(manifest.made_by, exported_from=origin),
    )


def _requested_units(
    source: Cache, seeds: str | None, units: str | None
) -> dict[int, Sequence[int]]:
    """Return the units to copy, by the first of their seeds: also those that `source` is to get
    yet."""
    num_units = source.manifest.num_units
    coverage = coverage_of(source)
    numbers = _parse_units(units, num_units)
    if seeds is None:
        firsts = set(coverage.asked)
    else:
        firsts = _whole_groups(source, seeds)
        absent_seeds = sorted(firsts - set(coverage.held))
        if absent_seeds:
            raise MissingUnitError(
                f"cache {source} does not hold seed {absent_seeds[0]}; kdcache info shows what it"
                " holds"
            )
    requested_units: dict[int, Sequence[int]] = {}
    for first in sorted(firsts):
        units_of_seed = coverage.asked.get(first, range(num_units))
        if len(numbers) < num_units:
            units_of_seed = [unit for unit in units_of_seed if unit in numbers]
        requested_units[first] = units_of_seed
    return requested_units


def _whole_groups(source: Cache, seeds: str) -> set[int]:
    """Return the first of each group of seeds that share units.

    Raises:
        UsageError: of a group only some are asked for.
    """
    numbers = set(parse_seeds(seeds))
    groups = {source.manifest.unit_seeds(seed) for seed in numbers}
    missing_seeds = sorted(set(itertools.chain(*groups)) - numbers)
    if missing_seeds:
        count = source.manifest.seeds_per_unit
        listed_seeds = ", ".join(map(str, missing_seeds[:5]))
        raise UsageError(
            f"seeds {seeds}: {count} seeds of cache {source} share each unit; ask for whole groups "
            f"({listed_seeds} are missing)"
        )
    return {group[0] for group in groups}


def _parse_units(text: str | None, most: int) -> range:
    if text is None:
        return range(most)
    choice = f"the cache has units 0:{most} of each seed"
    match = re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20})", text)
    if not match:
        raise UsageError(f"units {quoted(text)} are not of the form A:B with B left out; {choice}")
    numbers = range(int(match[1]), int(match[2]))
    if not numbers:
        raise UsageError(f"units {text} are none: they end before they begin; {choice}")
    if numbers.stop > most:
        raise UsageError(f"units {text} go past the last one; {choice}")
    return numbers


def copied_result(target: Cache, num_written: int, num_bytes: int, start: float) -> dict[str, Any]:
    """Return what is told of units that were copied, and of what a cache then holds.

    Args:
        target: the cache.
        num_written: how many units were copied.
        num_bytes: their bytes.
        start: when that began, as `time.monotonic` tells.
    """
    return {
        "units_written": num_written,
        "bytes": num_bytes,
        "seconds": time.monotonic() - start,
        **coverage_of(target).to_json(),
    }
