"""The dump: run the teacher once over every view that is missing, and commit its records unit by
unit."""

import time
from collections.abc import Sequence
from typing import Any

from kdcache.cache import Cache, Commit, create_cache
from kdcache.cache.coverage import ask_for
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.writing import require_manifest, start_seed
from kdcache.codecs import fit_arrays
from kdcache.dump.config import DumpConfig
from kdcache.dump.engines import open_engine
from kdcache.dump.job import Job, prepare, probe_place, tell_error
from kdcache.dump.next_step import training_command
from kdcache.dump.unit import tell_clipped
from kdcache.runtime.console import log, own_name, say
from kdcache.runtime.launch import require_count
from kdcache.runtime.stopping import heeding, look

__all__ = ["DumpConfig", "dump_teacher"]


def dump_teacher(config: DumpConfig) -> dict[str, Any]:
    """Write every unit of the seeds that the cache lacks; run again, it goes on where it stopped.

    Several processes may do so at once, see `engines`: each returns when all units are there.

    Returns:
        `cache`, its `task`, `seeds`, `rows` per seed, `units_written` now by this process or its
        workers on Ray, `seconds` they
        took, and over all units of these seeds: `bytes`, `bytes_per_view`, `teacher_accuracy` in
            percent (None if its classes
        are others), the number of `absent` rows, whether the cache `has_images`, and `next`, the
        command of a training from it.

    Raises:
        MismatchError: the cache was made with other settings.
        KdcacheError: bad input, unwritable cache, NaN logits; what was committed stays.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    require_count()
    engine = open_engine(config)
    if who := own_name():  # a worker that is killed while it opens all this leaves at least a line
        log(who, f"opens data and teacher for the dump into {config.cache}")
    probe_place(config)
    job = prepare(config)
    tell_error(job)
    listed = job.listing.arrays if job.listing is not None else None
    # of two dumps that start at once and choose a codec, the later one's sample may ask for another
    # step
    cache = create_cache(
        config.cache,
        job.manifest,
        fit_arrays(job.codec),
        source=listed,
        any_codec=config.codec is None,
    )
    ask_for(cache, job.seeds)
    for seed in job.seeds:
        start_seed(cache, seed)
    start = time.monotonic()
    written = 0
    with heeding(lambda: f": {written} units written"):
        written = engine(job, cache)
        look()
    seconds = time.monotonic() - start
    require_manifest(cache, reads=True)
    commits = [commit for seed in job.seeds for commit in cache.commits(seed)]
    summary = _summary(job, cache, commits)
    tell_clipped(cache, commits)
    chance = 100 / job.source.classes
    accuracy = summary["teacher_accuracy"]
    if accuracy is not None and accuracy < 2 * chance and job.source.classes > 2:
        say(
            f"note: the teacher is right on {accuracy:.1f} % of these views, chance is {chance:.1f}"
            " %: are its weights loaded, and are its classes those of the data?"
        )
    return {"units_written": written, "seconds": seconds, **summary}


def _summary(job: Job, cache: Cache, commits: Sequence[Commit]) -> dict[str, Any]:
    # several seeds may share a unit
    size = sum({commit.key: commit.num_bytes for commit in commits}.values())
    rows = sum(commit.stop - commit.start for commit in commits)
    told = [
        (commit.statistics, commit.stop - commit.start - len(commit.absent)) for commit in commits
    ]
    means = mean_statistics(told) if job.config.teacher_classes is None else {}
    return {
        "cache": str(cache),
        "task": cache.manifest.task,
        "seeds": job.seeds,
        "rows": cache.manifest.rows,
        "bytes": size,
        "bytes_per_view": size / rows,
        "teacher_accuracy": means.get("accuracy"),
        "absent": sum(len(commit.absent) for commit in commits),
        "has_images": cache.manifest.has_images,
        "next": training_command(job),
    }
