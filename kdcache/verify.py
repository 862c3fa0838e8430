"""Verification: every unit against its commit, byte by byte; what is missing; views against probes; a teacher's logits."""

from pathlib import Path
from typing import Any

from kdcache.cache import Cache
from kdcache.cache.census import missing_units, take_census
from kdcache.cached_source import fetch_images, source_of
from kdcache.compute import Compute, ComputeConfig
from kdcache.drift import check_views, probed_commits
from kdcache.errors import CacheError, CodecError, DriftError, KdcacheError, MismatchError, UnreadableSampleError, UsageError
from kdcache.models import VisionModel, open_model
from kdcache.rerun import (
    compare_logits,
    compute_of,
    logits_faults,
    lossy_origin,
    require_teacher,
)
from kdcache.tracking import say
from kdcache.unit_check import CheckReport, check_units
from kdcache.views import Recipe

TEACHER_VIEWS = 64
"""Views that are rendered and run again where a teacher is given and no number."""
_BATCH_SIZE = 256
_FAULTS = (CacheError, CodecError, DriftError, UnreadableSampleError)
"""What is wrong with the cache, or with what it was made from, rather than with the command."""


def verify_cache(
    cache: Cache,
    *,
    views: int | None = None,
    data: str | None = None,
    teacher: str | None = None,
    batch_size: int | None = None,
    compute: ComputeConfig | None = None,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Check every committed unit's commit, bytes, SHA-256 and zarr checksums, each seed's zarr metadata, and what lies beside.

    Units are read side by side. With a report a verification that was killed goes on where it stopped.

    Args:
        cache: the cache.
        views: how many probed views, at most, to render again and compare, besides; by default none, or with a teacher 64.
        data: spec of the source for these; by default the images that the cache holds, or what its manifest names.
        teacher: spec of the teacher, to run it again on as many views and compare its logits with the records.
        batch_size: views of one of its forward passes; by default 256.
        compute: where and how it runs; by default in the precision of the dump.
        report: file that gets a line of JSON for each unit that was checked. Units of which it says already that they are
            whole are not read again; only their commits are.

    Returns:
        `units` and `bytes` checked, of them `from_report` units as it says, `absent` rows in them, `seeds`, `faults` (one line
        each), `missing` units of seeds that are not complete, keys of `orphaned` and `foreign` objects and the number of
        `temporary` ones, see `Census` (all three harmless), `views` if asked for, and with a teacher `teacher`, what
        `compare_logits` returns. Views and teacher are left out where there are faults before.

    Raises:
        SourceError: the source of the views cannot be opened.
        ModelError: the teacher cannot be opened.
        MismatchError: data that is not the cache's source, or a teacher for a cache that was recoded from a lossy one.
        UsageError: the manifest names a source that could run code, and `data` is not given; or settings without use.
        KdcacheError: a report that cannot be written, or is that of another cache.
    """
    _require_use(views, data, teacher, batch_size, is_placed=compute is not None)
    asked, views = views, (TEACHER_VIEWS if teacher else 0) if views is None else views
    running = Compute(compute or compute_of(cache)) if teacher else None
    source = source_of(cache, data) if views else None
    opened = _open_teacher(cache, teacher, running) if teacher and running else None
    found, faults = _check_bytes(cache, CheckReport(cache, report))
    if source is not None and not faults:
        try:
            if opened is not None:
                require_teacher(cache, opened[0])
            commits = [*probed_commits(cache, cache.seeds(), views)]
            fetch_images(source, commits)
            found["views"] = check_views(cache, source, commits, views=views)
            if asked and 0 < found["views"]["checked"] < asked:
                say(f"note: {asked} views were asked for, and {found['views']['checked']} can be compared with the dump")
            if opened is not None:
                model, running = opened
                size = _BATCH_SIZE if batch_size is None else batch_size
                logits = compare_logits(cache, source, model, views=views, batch_size=size, compute=running)
                found["teacher"] = logits
                faults += logits_faults(cache, model, logits)
        except _FAULTS as error:
            faults.append(str(error))
    return {**found, "faults": faults}


def _require_use(views: int | None, data: str | None, teacher: str | None, batch_size: int | None, *, is_placed: bool) -> None:
    """Raise a UsageError if a setting is out of range, or another one is missing without which it does nothing."""
    least = 1 if teacher else 0
    if views is not None and views < least:
        raise UsageError(f"views is {views}; it must be at least {least}{' to run a teacher on' if teacher else ''}")
    if data is not None and not views and not teacher:
        raise UsageError(f"data {data} is opened to render views, and none are asked for; give --views N or --teacher SPEC too")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
    if teacher is None and (batch_size is not None or is_placed):
        raise UsageError("--batch-size, --workers, --device and --precision say how a teacher runs; give --teacher SPEC too")


def _check_bytes(cache: Cache, report: CheckReport) -> tuple[dict[str, Any], list[str]]:
    """Return what is said of units and objects, and the faults that were found."""
    census = take_census(cache)
    missing = missing_units(cache.manifest, census.commits)
    faults = [*_faults_beside(cache), *(fault for seed in missing for fault in cache.array_faults(seed))]
    counts, unit_faults = check_units(cache, census, report)
    found = {
        "cache": str(cache),
        "seeds": list(missing),
        **counts,
        "missing": {seed: units for seed, units in missing.items() if units},
        "orphaned": [entry.key for entry in census.orphaned],
        "foreign": [entry.key for entry in census.foreign],
        "temporary": len(census.temporary),
    }
    return found, faults + unit_faults


def _faults_beside(cache: Cache) -> list[str]:
    """Return what keeps records from being read: an unknown codec, a damaged fit, a damaged list of a subset's samples."""
    faults = []
    for look in (lambda: cache.codec, lambda: cache.samples):
        try:
            look()
        except KdcacheError as error:
            faults.append(str(error))
    return faults


def _open_teacher(cache: Cache, teacher: str, running: Compute) -> tuple[VisionModel, Compute]:
    """Return the teacher that the user names, and where it runs; the manifest's spec is never opened: it could run code."""
    if origin := lossy_origin(cache):
        raise MismatchError(
            f"cache {cache} was recoded from {origin}, so that its records are not those of the teacher alone; verify "
            "the cache that it came from"
        )
    recipe = Recipe.from_dict(cache.manifest.recipe)
    return open_model(teacher, classes=cache.manifest.classes, recipe=recipe, trained=True, task=cache.manifest.task), running
