"""Conversion between the stores of zarr shards and of webdataset tars: the same records, cut into
other units."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcache.cache import (
    Cache,
    Commit,
    Manifest,
    create_cache,
    open_cache,
    record_layout,
    tar_layout,
)
from kdcache.cache.committing import commit_unit, require_written, start_seed
from kdcache.cache.coverage import ask_for, note_left_out
from kdcache.cache.documents.commit import mean_statistics, seed_if_grouped
from kdcache.cache.documents.parts import Absence, ConvertedFrom, Probe
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.source import source_of
from kdcache.cache.source_list import names_of, require_unique_keys
from kdcache.config.arguments import checked_arguments
from kdcache.dump.unit import stored_samples
from kdcache.errors import CacheError, MismatchError, UsageError
from kdcache.runtime.console import progress
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.shapes import Records
from kdcache.sources import Source, mean_image_bytes
from kdcache.tools.merge import require_unmixed

Store = Literal["zarr", "webdataset"]


@checked_arguments
def convert_cache(
    cache: str | Path,
    new: str | Path,
    *,
    store: Store,
    data: str | None = None,
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
        data: spec of the source that it was made from, of which tars hold the images and the names;
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
    seeds = _complete(old)
    source = source_of(old, data) if store == "webdataset" else None
    if source is not None:
        require_unique_keys(source, names_of(source))
    manifest = _manifest(old, seeds, source, images)
    listed = old.source_arrays()
    made = create_cache(new, manifest, old.fit(), samples=old.samples, source=listed)
    origin = made.manifest.made_by.converted_from
    if origin is None or origin.manifest != old.manifest.digest:
        raise MismatchError(f"cache {new} was not converted from {old}; choose a new folder")
    ask_for(made, seeds)
    start = time.monotonic()
    conversion = _Conversion(old, made, source)
    with heeding(lambda: f": {conversion.written} units written"):
        conversion.run(seeds)
    seconds = time.monotonic() - start
    size = sum(made.whole_commit(*unit).num_bytes for unit in made.units())
    return {
        "cache": str(made),
        "source": str(old),
        "store": store,
        "seeds": seeds,
        "rows": made.manifest.num_held,
        "units_written": conversion.written,
        "seconds": seconds,
        "bytes": size,
        "bytes_per_view": size / (len(seeds) * made.manifest.num_held),
    }


class _Conversion:
    """Cuts records of one cache into units of another."""

    def __init__(self, old: Cache, made: Cache, source: Source | None) -> None:
        self._old = old
        self._made = made
        self._source = source
        self.written = 0
        self._commit = lru_cache(100_000)(old.whole_commit)
        # the units of one block of new rows under all seeds of a new or an old group are read once
        blocks = made.manifest.unit_rows // old.manifest.unit_rows + 2
        groups = -(-made.manifest.seeds_per_unit // old.manifest.seeds_per_unit)
        self._records = lru_cache(blocks * groups)(self._read)

    def run(self, seeds: Sequence[int]) -> None:
        """Write what is missing, as long as the process is not told to stop."""
        manifest = self._made.manifest
        firsts = sorted({manifest.unit_seeds(seed)[0] for seed in seeds})
        missing = {first: {*self._made.missing_units(first)} for first in firsts}
        todo: list[Unit] = []
        for unit in range(manifest.num_units):
            todo += [(first, unit) for first in firsts if unit in missing[first]]
        if todo:
            self._made.storage.probe()
        for seed in firsts:
            start_seed(self._made, seed)
        with progress("convert", len(todo), "units") as bar:
            for first, unit in until_stopped(todo):
                self._write(first, unit)
                self.written += 1
                bar.advance(1)
        look()
        require_written(self._made, itertools.product(firsts, range(manifest.num_units)))

    def _write(self, first: int, unit: int) -> None:
        made = self._made.manifest
        rows = made.unit_range(unit)
        seeds = made.unit_seeds(first)
        parts = {
            seed: [self._commit(seed, number) for number in self._overlapping(rows)]
            for seed in seeds
        }
        records = np.stack([np.concatenate([*self._cut(seed, rows)]) for seed in seeds])
        samples = []
        if self._source is not None:
            labels = np.full(len(rows), -1, np.int64)
            indices = self._made.order[rows.start : rows.stop]
            images = self._old.is_held[rows.start : rows.stop] & made.has_images
            samples = stored_samples(self._source, indices, labels, has_images=images)
        commit_unit(self._made, first, unit, records, samples, **_facts(parts, rows, seeds))

    def _overlapping(self, rows: range) -> range:
        size = self._old.manifest.unit_rows
        return range(rows.start // size, (rows.stop - 1) // size + 1)

    def _cut(self, seed: int, rows: range) -> Iterator[Records]:
        old = self._old.manifest
        first = old.unit_seeds(seed)[0]
        for number in self._overlapping(rows):
            held = old.unit_range(number)
            start = max(rows.start, held.start)
            stop = min(rows.stop, held.stop)
            yield self._records(first, number)[seed - first, start - held.start : stop - held.start]

    def _read(self, first: int, unit: int) -> Records:
        commit = self._commit(first, unit)
        return self._old.decode_unit(commit, self._old.unit_bytes(commit))


def _facts(parts: Mapping[int, Sequence[Commit]], rows: range, seeds: range) -> dict[str, Any]:
    """Return what the old commits say of the rows of a new unit; by seed, each commit with what it
    says of all its seeds."""
    pairs: list[tuple[int, Commit]] = []
    for seed in seeds:
        pairs += [(seed, commit.of_seed(seed)) for commit in parts[seed]]
    absent: list[Absence] = []
    probes: list[Probe] = []
    for seed, commit in pairs:
        said = seed_if_grouped(seed, seeds)
        absent += [replace(part, seed=said) for part in commit.absent if part.row in rows]
        probes += [replace(part, seed=said) for part in commit.probes if part.row in rows]
    told = [(commit.statistics, _present(commit, rows)) for _, commit in pairs]
    return {
        "absent": sorted(absent, key=lambda absence: (absence.row, absence.seed or 0)),
        "probes": probes,
        "statistics": mean_statistics(told),
        "versions": pairs[0][1].versions,
    }


def _present(commit: Commit, rows: range) -> int:
    """Return how many of `rows` a unit holds under the commit's seed, absent ones left out."""
    gone = sum(absence.row in rows for absence in commit.absent)
    return min(rows.stop, commit.stop) - max(rows.start, commit.start) - gone


def _require_use(old: Cache, store: Store, data: str | None, images: bool) -> None:
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
    manifest = old.manifest
    mixing = old.recipe.mixing
    block = mixing.block if mixing else 1
    origin = manifest.source
    fields: dict[str, Any]
    if source is not None:
        image_bytes = mean_image_bytes(source) if images else None
        fields = tar_layout(
            old.codec, manifest.rows, block=block, seeds=_group(seeds), image_bytes=image_bytes
        )
        origin = replace(origin, classes=source.classes)
    else:
        plain = {"store": "zarr", "seeds_per_unit": 1, "has_images": False}
        fields = {**record_layout(old.codec, manifest.rows, block=block), **plain}
    fields |= {"codec": manifest.codec, "record_dtype": manifest.record_dtype, "source": origin}
    converted = ConvertedFrom(store=manifest.store, manifest=manifest.digest)
    made_by = replace(manifest.made_by, converted_from=converted)
    return replace(manifest, **fields, made_by=made_by)


def _group(seeds: Sequence[int]) -> int:
    """Return how many seeds share a tar: all, if they are a group that can, else one."""
    count = len(seeds)
    is_group = [*seeds] == [*range(seeds[0], seeds[0] + count)] and seeds[0] % count == 0
    return count if is_group else 1
