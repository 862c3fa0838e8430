"""What a dump would take, from a timed probe."""

import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdcache.cache import Cache, Manifest, open_cache
from kdcache.cache.committing import encode_unit
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.cache.opening import open_storage
from kdcache.cache.storage.protocol import is_address
from kdcache.cache.stored_samples import stored_samples
from kdcache.codec_error.measure import fitted_gradients
from kdcache.codecs import codec_spec
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import Job, prepare, probe_place
from kdcache.dump.requests import batches_of
from kdcache.dump.shares import all_units, grouped, not_committed, units_together
from kdcache.dump.unit import UnitMaker
from kdcache.dump.worker import maker_of, records_of
from kdcache.errors import UsageError
from kdcache.runtime.console import steady_rate
from kdcache.runtime.launch import own_place, require_count
from kdcache.shapes import Records

PLAN_BATCHES = 16
PLAN_SECONDS = 10.0
_SAMPLES = 64


def plan_dump(config: DumpConfig, *, world_size: int | None = None) -> dict[str, Any]:
    """Return what the dump would take, from a timed probe of a few batches; nothing is written.

    Args:
        config: the dump.
        world_size: processes that are to share it; by default as many as the environment tells, or
            `ray.workers` if it runs on Ray, else one.

    Returns:
        `samples` and `classes` of the source, the `recipe` and `size` of the views, `sites` and
        `stride` of maps, `views`, `units`, `files`, `bytes`, `bytes_per_view`, `files_per_seed`,
        `bytes_per_seed`, `views_per_second` of one process, its `seconds_per_unit`, `world_size`,
        the `seconds` that so many take, the `sample_seconds` before, in which one of them runs the
        views that the codec is fitted to and this plan had no time for, the `device_hours` of all,
        `device_hours_per_million_views`, `free_bytes`, how many `units_done` are there already, the
        `codec`, the error of DIST's gradient from its records by temperature, as the manifest has
        it where the cache is there already, `gradients` as `codec-error` has them (empty there),
        the `teacher_accuracy` in percent on the probe's views, the teacher's input `size`, and of
        segmentation the `sites` of its maps (heads, height, width) and their `stride`.
    """
    require_count()
    if world_size is not None and world_size < 1:
        raise UsageError(f"world_size is {world_size}; it must be at least 1")
    probe_place(config, writes=False)
    job = prepare(config, is_plan=True)
    cache = Cache(open_storage(config.cache), job.manifest, job.codec)
    if cache.storage.exists(MANIFEST):
        cache = open_cache(config.cache)
        cache.require(job.manifest)
    num_processes = world_size or _world_size(config)
    together = units_together(job, cache, len(all_units(job, cache)), num_processes)
    units = all_units(job, cache, together)
    missing = not_committed(cache, units)
    num_missing = len(missing)
    groups = grouped(missing or units, together)
    # in the middle, where hardly a view is one of the codec's sample
    probe = _probe(job, cache, groups[len(groups) // 2])
    gradients = []
    if job.fitted is not None:
        gradients = fitted_gradients(job.fitted)
        job.sample.save()
    return {
        "samples": len(job.source),
        "classes": job.source.classes,
        "recipe": job.recipe.name,
        "size": job.teacher.preprocessing.size,
        "views": job.manifest.rows * len(job.seeds),
        "units": len(units),
        "units_done": len(units) - num_missing,
        **_sizes(job, cache, _bytes_per_view(job, cache, probe.records)),
        "views_per_second": probe.rate,
        **_times(job.manifest, num_missing, probe.rate, num_processes),
        "sample_seconds": job.sample.views_left / probe.rate,
        "sites": list(job.teacher.sites),
        "stride": job.teacher.stride,
        "codec": codec_spec(job.codec),
        "gradient_error": job.manifest.made_by.gradient_error,
        "gradients": gradients,
        "teacher_accuracy": probe.accuracy,
        "free_bytes": _free_bytes(config.cache),
    }


class _Probe(NamedTuple):
    """What the first batches tell."""

    records: Records
    rate: float
    """Views per second."""
    accuracy: float | None
    """Of the teacher on them, in percent."""


def _probe(job: Job, cache: Cache, units: Sequence[Unit]) -> _Probe:
    """Run the teacher on the first batches of units that are made together, as many as there is
    time for."""
    makers: dict[Unit, UnitMaker] = {}
    requests = list(islice(batches_of(job, cache, units), PLAN_BATCHES))
    seeds = requests[0].seeds
    requests = [request for request in requests if request.seeds == seeds]
    del requests[-(-PLAN_BATCHES // len(seeds)) :]
    times = [time.monotonic()]
    counts = []
    parts = []
    for batch, encoded in records_of(job, cache, requests):
        maker_of(job, cache, makers, batch).add(batch, encoded)
        job.labels.add(batch)
        seed = int(batch.seeds[0])
        if seed == seeds[0]:
            parts.append(encoded.records)  # of one unit
        if seed != seeds[-1]:
            continue  # batches of a request come all at once
        times.append(time.monotonic())
        counts.append(len(seeds) * len(encoded.records))
        if times[-1] - times[0] > PLAN_SECONDS:
            break
    job.labels.tell()
    statistics = [(maker.statistics, maker.counted) for maker in makers.values()]
    accuracy = mean_statistics(statistics).get("accuracy")
    return _Probe(np.concatenate(parts), steady_rate(times, counts), accuracy)


def _sizes(job: Job, cache: Cache, bytes_per_view: float) -> dict[str, float]:
    """Return the files and bytes of the dump and of a seed."""
    rows = job.manifest.rows
    num_seeds = len(job.seeds)
    return {
        "files": _num_files(job, cache),
        "files_per_seed": _num_files_of_seeds(job, cache) / num_seeds,
        "bytes": round(rows * num_seeds * bytes_per_view),
        "bytes_per_seed": round(rows * bytes_per_view),
        "bytes_per_view": bytes_per_view,
    }


def _free_bytes(cache: str) -> int | None:
    """Return what is free on the disk of `cache`; None of an address."""
    if is_address(cache):
        return None
    return shutil.disk_usage(_existing_parent(Path(cache))).free


def _bytes_per_view(job: Job, cache: Cache, records: Records) -> float:
    """Return the bytes on disk per view, of records as the probe has them and, in a webdataset
    store, of a few samples."""
    if isinstance(cache.format, ZarrFormat):
        return cache.format.bytes_per_record(records)
    seeds = cache.manifest.seeds_per_unit
    rows = cache.manifest.unit_range(0)[:_SAMPLES]
    indices = cache.order[rows.start : rows.stop]
    samples = stored_samples(
        job.source, indices, [-1] * len(rows), has_images=cache.manifest.has_images
    )
    empty = np.zeros((seeds, len(rows)), records.dtype)
    return len(encode_unit(cache, 0, empty, samples)) / empty.size


def _world_size(config: DumpConfig) -> int:
    """Return how many processes are to share the dump, as far as that is known."""
    if config.engine == "ray":
        return config.ray.workers or 1
    return own_place().world_size


def _times(manifest: Manifest, num_missing: int, rate: float, world_size: int) -> dict[str, float]:
    """Return how long the units that are left take so many processes, each as fast as this one."""
    unit_views = min(manifest.unit_rows, manifest.rows) * manifest.seeds_per_unit
    missing_views = num_missing * manifest.rows * manifest.seeds_per_unit / manifest.num_units
    seconds_per_unit = unit_views / rate
    # whoever comes last has a whole unit more than the mean
    seconds = min(-(-num_missing // world_size) * seconds_per_unit, missing_views / rate)
    return {
        "seconds_per_unit": seconds_per_unit,
        "world_size": world_size,
        "seconds": seconds,
        "device_hours": world_size * seconds / 3600,
        "device_hours_per_million_views": 1e6 / rate / 3600,
    }


def _num_files(job: Job, cache: Cache) -> int:
    """Return the files of the whole dump: of its seeds, manifest, request, zarr's group of seeds,
    fit and list."""
    count = 2 + _num_files_of_seeds(job, cache)
    if job.manifest.store == "zarr":
        count += 1
    count += _num_files_of_group(job.codec.fit_arrays())
    if job.listing is not None:
        count += _num_files_of_group(job.listing.arrays)
    return count


def _num_files_of_group(arrays: Mapping[str, Any]) -> int:
    """Return the files of a group of zarr arrays of one chunk each; none without arrays."""
    if not arrays:
        return 0
    return 2 + 2 * len(arrays)


def _num_files_of_seeds(job: Job, cache: Cache) -> int:
    count = 2 * len(all_units(job, cache))
    if job.manifest.store == "zarr":
        count += 2 * len(job.seeds)
    return count


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    if path.exists():
        return path
    return _existing_parent(path.parent)
