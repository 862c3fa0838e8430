"""Conversion between the stores of zarr shards and of webdataset tars: the same records, cut into
other units."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcache.cache import (
    Cache,
    Commit,
    Manifest,
    open_cache,
    record_layout,
    tar_layout,
)
from kdcache.cache.committing import commit_unit, require_written, start_seed
from kdcache.cache.coverage import ask_for, note_left_out
from kdcache.cache.documents.commit import mean_statistics, seed_if_grouped
from kdcache.cache.documents.parts import Absence, ConvertedFrom, Probe
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import create_from, require_apart
from kdcache.cache.source import source_of
from kdcache.cache.source_list import names_of, require_unique_keys
from kdcache.cache.stored_samples import stored_samples
from kdcache.config.arguments import checked_arguments
from kdcache.errors import CacheError, MismatchError, UsageError
from kdcache.runtime.console import progress
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.shapes import Records
from kdcache.sources import Source, mean_image_bytes
from kdcache.tools.export import require_unmixed

Store = Literal["zarr", "webdataset"]


@checked_arguments
def convert_cache(
    cache: str | Path,
    new: str | Path,
    *,
    store: Store,
    data: Any = None,
    images: bool = True,
) -> dict[str, Any]:
    """Write to `new` the complete seeds of `cache` in the other store; run again, it goes on where
    it stopped.

    Records are the same, bit for bit, and so are absent rows, probes and versions. Statistics are
    means: those of a unit that is cut into smaller ones stand for each of them.

    Args:
        cache: the cache.
        new: the new cache.
        store: `zarr` or `webdataset`, whichever `cache` is not.
        data: what it was made from, or its spec; tars hold its images and the names, so that
            a webdataset store needs it.
        images: whether tars hold the images.

    Returns:
        `cache` (the new one), `source`, `store`, `seeds`, `rows` per seed, `units_written` now, the
        `seconds` they took, `bytes` and `bytes_per_view` over all units.

    Raises:
        UsageError: a cache of that store, or data that is of no use, such as equal keys.
        MismatchError: data that the cache was not made from, or `new` is another cache.
        KdcacheError: a damaged unit or an unwritable folder; what was committed stays.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    old = open_cache(cache)
    _require_use(old, store, data, images)
    require_apart(new, [cache])
    seeds = _complete(old)
    source = None
    if store == "webdataset":
        source = source_of(old, data)
        require_unique_keys(source, names_of(source))
    manifest = _manifest(old, seeds, source, images)
    target = create_from(old, new, manifest, old.fit(), samples=old.samples)
    origin = target.manifest.made_by.converted_from
    if origin is None or origin.manifest != old.manifest.digest:
        raise MismatchError(f"cache {new} was not converted from {old}; choose a new folder")
    ask_for(target, seeds)
    start = time.monotonic()
    conversion = _Conversion(old, target, source)
    with heeding(lambda: f": {conversion.num_written} units written"):
        conversion.run(seeds)
    seconds = time.monotonic() - start
    num_bytes = 0
    for unit in target.units():
        num_bytes += target.whole_commit(*unit).num_bytes
    num_views = len(seeds) * target.manifest.num_held
    return {
        "cache": str(target),
        "source": str(old),
        "store": store,
        "seeds": seeds,
        "rows": target.manifest.num_held,
        "units_written": conversion.num_written,
        "seconds": seconds,
        "bytes": num_bytes,
        "bytes_per_view": num_bytes / num_views,
    }


class _Conversion:
    """Cuts records of one cache into units of another."""

    def __init__(self, old: Cache, target: Cache, source: Source | None) -> None:
        self._old = old
        self._target = target
        self._source = source
        self.num_written = 0
        self._commit = lru_cache(100_000)(old.whole_commit)
        # the units of one block of new rows under all seeds of a new or an old group are read once
        blocks = target.manifest.unit_rows // old.manifest.unit_rows + 2
        groups = -(-target.manifest.seeds_per_unit // old.manifest.seeds_per_unit)
        self._records = lru_cache(blocks * groups)(self._decoded_unit)

    def run(self, seeds: Sequence[int]) -> None:
        """Write what is missing, as long as the process is not told to stop."""
        manifest = self._target.manifest
        firsts = sorted({manifest.unit_seeds(seed)[0] for seed in seeds})
        todo = self._missing_units(firsts)
        if todo:
            self._target.storage.probe()
        for seed in firsts:
            start_seed(self._target, seed)
        with progress("convert", len(todo), "units") as bar:
            for first, unit in until_stopped(todo):
                self._write(first, unit)
                self.num_written += 1
                bar.advance(1)
        look()
        require_written(self._target, itertools.product(firsts, range(manifest.num_units)))

    def _missing_units(self, firsts: Sequence[int]) -> list[Unit]:
        """Return what is missing of the groups of seeds with these first ones, block by block."""
        missing: list[Unit] = []
        for first in firsts:
            missing += [(first, unit) for unit in self._target.missing_units(first)]
        return sorted(missing, key=lambda unit: (unit[1], unit[0]))

    def _write(self, first: int, unit: int) -> None:
        """Write and commit one new unit."""
        manifest = self._target.manifest
        rows = manifest.unit_range(unit)
        seeds = manifest.unit_seeds(first)
        commits = {seed: self._commits(seed, rows) for seed in seeds}
        records = np.stack([self._cut(seed, rows) for seed in seeds])
        samples = []
        if self._source is not None:
            labels = np.full(len(rows), -1, np.int64)
            indices = self._target.order[rows.start : rows.stop]
            images = self._old.is_held[rows.start : rows.stop] & manifest.has_images
            samples = stored_samples(self._source, indices, labels, has_images=images)
        commit_unit(self._target, first, unit, records, samples, **_facts(commits, rows, seeds))

    def _overlapping(self, rows: range) -> range:
        """Return the old units that hold some of these rows."""
        size = self._old.manifest.unit_rows
        return range(rows.start // size, (rows.stop - 1) // size + 1)

    def _commits(self, seed: int, rows: range) -> list[Commit]:
        """Return the old commits under a seed that hold some of these rows."""
        return [self._commit(seed, number) for number in self._overlapping(rows)]

    def _cut(self, seed: int, rows: range) -> Records:
        """Return the records of rows under a seed, out of the old units that hold them."""
        manifest = self._old.manifest
        first = manifest.unit_seeds(seed)[0]
        parts = []
        for number in self._overlapping(rows):
            unit_rows = manifest.unit_range(number)
            start = max(rows.start, unit_rows.start) - unit_rows.start
            stop = min(rows.stop, unit_rows.stop) - unit_rows.start
            unit_records = self._records(first, number)
            parts.append(unit_records[seed - first, start:stop])
        return np.concatenate(parts)

    def _decoded_unit(self, first: int, unit: int) -> Records:
        """Return all records of an old unit."""
        commit = self._commit(first, unit)
        return self._old.decode_unit(commit, self._old.unit_bytes(commit))


def _facts(commits: Mapping[int, Sequence[Commit]], rows: range, seeds: range) -> dict[str, Any]:
    """Return what the old commits, by seed, say of the rows of a new unit."""
    absent: list[Absence] = []
    probes: list[Probe] = []
    statistics: list[tuple[dict[str, float], int]] = []
    for seed in seeds:
        own = seed_if_grouped(seed, seeds)
        for group_commit in commits[seed]:
            commit = group_commit.of_seed(seed)
            absent += [replace(entry, seed=own) for entry in commit.absent if entry.row in rows]
            probes += [replace(entry, seed=own) for entry in commit.probes if entry.row in rows]
            statistics.append((commit.statistics, _num_present(commit, rows)))
    return {
        "absent": sorted(absent, key=lambda absence: (absence.row, absence.seed or 0)),
        "probes": probes,
        "statistics": mean_statistics(statistics),
        "versions": commits[seeds[0]][0].versions,
    }


def _num_present(commit: Commit, rows: range) -> int:
    """Return how many of `rows` a unit holds under the commit's seed, absent ones left out."""
    start = max(rows.start, commit.start)
    stop = min(rows.stop, commit.stop)
    num_absent = sum(absence.row in rows for absence in commit.absent)
    return stop - start - num_absent


def _require_use(old: Cache, store: Store, data: Any, images: bool) -> None:
    if old.manifest.store == store:
        raise UsageError(f"cache {old} is a {store} store already; kdcache export copies it")
    if store == "zarr" and (data is not None or not images):
        raise UsageError("zarr stores hold no images; leave --data and --images out")
    if store == "webdataset" and images and old.samples is not None:
        require_unmixed(old, "give --no-images, and train with --data")


def _complete(old: Cache) -> list[int]:
    seeds = old.complete_seeds()
    if not seeds:
        raise CacheError(
            f"cache {old} holds no complete seed; run its dump-teacher command again to finish one"
        )
    note_left_out(old, seeds)
    return seeds


def _manifest(old: Cache, seeds: Sequence[int], source: Source | None, images: bool) -> Manifest:
    """Return the manifest of the new cache, in tars if there is a source."""
    manifest = old.manifest
    mixing = old.recipe.mixing
    block = 1
    if mixing:
        block = mixing.block
    source_entry = manifest.source
    fields: dict[str, Any]
    if source is not None:
        image_bytes = None
        if images:
            image_bytes = mean_image_bytes(source)
        fields = tar_layout(
            old.codec, manifest.rows, block=block, seeds=_group(seeds), image_bytes=image_bytes
        )
        source_entry = replace(source_entry, classes=source.classes)
    else:
        fields = record_layout(old.codec, manifest.rows, block=block)
        fields |= {"store": "zarr", "seeds_per_unit": 1, "has_images": False}
    fields["codec"] = manifest.codec
    fields["record_dtype"] = manifest.record_dtype
    fields["source"] = source_entry
    origin = ConvertedFrom(store=manifest.store, manifest=manifest.digest)
    made_by = replace(manifest.made_by, converted_from=origin)
    return replace(manifest, **fields, made_by=made_by)


def _group(seeds: Sequence[int]) -> int:
    """Return how many seeds share a tar: all, if they are a group that can, else one."""
    count = len(seeds)
    is_run = list(seeds) == list(range(seeds[0], seeds[0] + count))
    if is_run and seeds[0] % count == 0:
        return count
    return 1
