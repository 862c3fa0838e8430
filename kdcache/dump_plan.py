"""What a dump would take, from a timed probe."""

import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, open_cache
from kdcache.cache.objects import is_address
from kdcache.cache.opening import open_objects
from kdcache.cache.writing import encode_unit
from kdcache.codecs import codec_spec, fit_arrays
from kdcache.dump_config import DumpConfig
from kdcache.dump_job import Job, prepare
from kdcache.dump_units import all_units, batches_of, missing_units, records_of
from kdcache.fidelity import fitted_gradients
from kdcache.models import MapModel
from kdcache.shapes import Records
from kdcache.tracking import steady_rate
from kdcache.units import stored_samples

PLAN_BATCHES, PLAN_SECONDS = 16, 10.0
_SAMPLES = 64


def plan_dump(config: DumpConfig) -> dict[str, Any]:
    """Return what the dump would take, from a timed probe of a few batches; nothing is written.

    Returns:
        `views`, `units`, `files`, `bytes`, `bytes_per_view`, `seconds`, `views_per_second`, `free_bytes`, how many
        `units_done` are there already, the `codec`, the error of DIST's gradient from its records by temperature, as the
        manifest has it where the cache is there already, `gradients` as `fidelity` has them (empty
        there), the `teacher_accuracy` in percent on the probe's views, the teacher's input `size`,
        and of segmentation the `sites` of its maps (heads, height, width) and their `stride`.
    """
    job = prepare(config, measures_exact=True)
    cache = Cache(open_objects(config.cache), job.manifest, job.codec)
    if cache.objects.exists("zarr.json"):
        cache = open_cache(config.cache)
        cache.require(job.manifest)
    manifest = job.manifest
    units = all_units(job, cache)
    done = len(units) - len(missing_units(cache, units))
    probe, times, parts = job.unit(cache, job.seeds[0], 0), [time.monotonic()], []
    for batch, logits, records in records_of(job, cache, islice(batches_of(job, cache, job.seeds[0], 0), PLAN_BATCHES)):
        probe.add(batch, logits, records)
        times.append(time.monotonic())
        parts.append(records)
        if times[-1] - times[0] > PLAN_SECONDS:
            break
    rate = steady_rate(times, [len(part) for part in parts])
    bytes_per_view = _bytes_per_view(job, cache, np.concatenate(parts))
    views = manifest.rows * len(job.seeds)
    left = views * (1 - done / len(units))
    return {
        "views": views,
        "units": len(units),
        "units_done": done,
        "files": _num_files(job, cache),
        "bytes": round(views * bytes_per_view),
        "bytes_per_view": bytes_per_view,
        "seconds": left / rate,
        "views_per_second": rate,
        "size": job.teacher.preprocessing.size,
        "sites": list(job.teacher.sites),
        "stride": job.teacher.stride if isinstance(job.teacher, MapModel) else None,
        "codec": codec_spec(job.codec),
        "gradient_error": job.manifest.made_by["gradient_error"],
        "gradients": fitted_gradients(job.fitted) if job.fitted else [],
        "teacher_accuracy": probe.statistics.get("accuracy"),
        "free_bytes": None if is_address(config.cache) else shutil.disk_usage(_existing_parent(Path(config.cache))).free,
    }


def _bytes_per_view(job: Job, cache: Cache, records: Records) -> float:
    """Return the bytes on disk per view, of records as the probe has them and, in a webdataset store, of a few samples."""
    if cache.manifest.store == "zarr":
        return len(encode_unit(cache, 0, records)) / len(records)
    seeds, rows = cache.manifest.seeds_per_unit, cache.manifest.unit_range(0)[:_SAMPLES]
    indices = cache.order[rows.start : rows.stop]
    samples = stored_samples(job.source, indices, [-1] * len(rows), has_images=cache.manifest.has_images)
    empty = np.zeros((seeds, len(rows)), records.dtype)
    return len(encode_unit(cache, 0, empty, samples)) / empty.size


def _num_files(job: Job, cache: Cache) -> int:
    manifest, fit = job.manifest, fit_arrays(job.codec)
    arrays = 2 * len(job.seeds) if manifest.store == "zarr" else 0
    return 2 + arrays + 2 * len(all_units(job, cache)) + (2 + 2 * len(fit) if fit else 0)


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing_parent(path.parent)
