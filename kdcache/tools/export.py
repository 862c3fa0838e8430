"""A part of a cache as a cache of its own: some seeds, units or samples."""

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, Manifest, open_cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.committing import require_written
from kdcache.cache.coverage import ask_for_units, coverage_of
from kdcache.cache.documents.parts import ExportedFrom, SamplesEntry
from kdcache.cache.opening import require_apart
from kdcache.cache.source import CachedNames, source_of
from kdcache.cache.source_list import ListedNames, read_list
from kdcache.cache.stored_views import read_views
from kdcache.cache.subset import samples_arrays
from kdcache.config.arguments import checked_arguments
from kdcache.config.seeds import parse_seeds
from kdcache.errors import (
    MissingUnitError,
    UsageError,
    quoted,
)
from kdcache.shapes import Rows
from kdcache.sources.selection import Named, Samples, are_numbers, parse_samples, samples_text
from kdcache.tools.unit_copies import copied_result, copied_units, created_from


@checked_arguments
def export_cache(
    cache: str | Path,
    new: str | Path,
    *,
    seeds: str | None = None,
    units: str | None = None,
    samples: str | Sequence[int] | Rows | None = None,
    data: Any = None,
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
        samples: numbers `A:B` in the source's order, a list of them, or a text file with a key on
            each line; by default all.
        data: the data set whose keys these are, or its spec; by default the tars of the cache
            tell.

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


def require_unmixed(cache: Cache, way_out: str) -> None:
    """Raise a UsageError if views of a cache are mixed: of a subset that is to hold images, those
    of partners are lost."""
    views = read_views(cache.storage, cache.manifest)
    is_mixed_as_stored = views is not None and views.mixes
    if "mixing" in cache.manifest.recipe.table or is_mixed_as_stored:
        raise UsageError(
            f"cache {cache}: recipe {cache.manifest.recipe.name} mixes each view with another,"
            f" whose image a subset with images would not hold; {way_out}"
        )


def _sample_numbers(source: Cache, samples: Samples | None, data: Any) -> Rows | None:
    """Return the numbers of the samples that the new cache holds, rising; None if these are all."""
    if data is not None and (samples is None or are_numbers(samples)):
        raise UsageError(
            f"data {quoted(data)} tells the keys of samples, and none are given; leave it out, or"
            " give --samples FILE"
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


def _require_samples(source: Cache, samples: Samples, numbers: Rows) -> None:
    """Raise a UsageError if a cache is a subset that does not hold samples of these numbers."""
    if source.samples is None:
        return
    absent_numbers = np.setdiff1d(numbers, source.samples)
    if absent_numbers.size:
        manifest = source.manifest
        raise UsageError(
            f"samples {samples_text(samples)}: cache {source} is a subset of {manifest.num_held} of"
            f" {manifest.rows} samples, which does not hold sample {absent_numbers[0]}; give"
            " samples that it holds, or the cache that it was exported from"
        )


def _names(source: Cache, data: Any) -> Named:
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
