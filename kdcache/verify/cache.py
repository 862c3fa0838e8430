"""Verification: every unit against its commit, byte by byte; what is missing; views against probes;
a teacher's logits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kdcache.cache import Cache
from kdcache.cache.arrays import arrays_path
from kdcache.cache.coverage import FINISH, Coverage, coverage_of
from kdcache.cache.documents.extent import read_extents
from kdcache.cache.formats.zarr import check_group
from kdcache.cache.inventory import Inventory, take_inventory
from kdcache.cache.opening import as_cache
from kdcache.cache.sample_checksums import changed_samples
from kdcache.cache.source import CachedSource, local_images, source_of
from kdcache.cache.source_check import Change, shown_name
from kdcache.cache.source_list import read_list
from kdcache.cache.stored_views import read_views
from kdcache.config.arguments import checked_arguments
from kdcache.errors import (
    MOST_MESSAGE,
    CacheError,
    CodecError,
    KdcacheError,
    UnreadableSampleError,
    UsageError,
    ViewMismatchError,
    shortened,
)
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import BatchSize
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.sources import Source
from kdcache.verify.integrity import CheckReport, check_units
from kdcache.verify.known_teacher import compute_of
from kdcache.verify.logits import (
    compare_logits,
    logits_faults,
    require_teacher,
)
from kdcache.verify.specs import check_specs
from kdcache.verify.views import check_views, probed_commits

TEACHER_VIEWS = 64
"""Views that are rendered and run again where a teacher is given and no number."""
_FAULTS = (CacheError, CodecError, ViewMismatchError, UnreadableSampleError)
"""What is wrong with the cache, or with what it was made from, rather than with the command."""


@checked_arguments
def verify_cache(
    cache: Cache | str | Path,
    *,
    views: int | None = None,
    contents: bool = False,
    data: Any = None,
    teacher: str | None = None,
    batch_size: BatchSize | None = None,
    compute: ComputeConfig | None = None,
    report: str | Path | None = None,
    complete: bool = False,
) -> dict[str, Any]:
    """Check every committed unit's commit, bytes, SHA-256 and zarr checksums, each seed's zarr
    metadata, and what lies beside.

    Units are read side by side. With a report a verification that was killed goes on where it
    stopped.

    Args:
        cache: the cache, or its path.
        views: how many probed views, at most, to render again and compare, besides; by default
            none, or with a teacher 64.
        contents: whether all files of the source are read, and compared with their checksums.
        data: the data set for these, or its spec; by default the images that the cache holds.
        teacher: spec of the teacher, to run it again on as many views and compare its logits with
            the records.
        batch_size: views of one of its forward passes, by default 256, on a CPU fewer large ones;
            `auto` tries how many are fastest.
        compute: where and how it runs; by default in the precision of the dump.
        report: file that gets a line of JSON for each unit that was checked. Units of which it says
            already that they are whole are not read again; only their commits are.
        complete: whether it is a fault that something is missing of what the cache was asked to
            hold.

    Returns:
        `units` and `bytes` checked, of them `from_report` units as it says, `absent` rows in them,
        `faults` (one line each), what `Coverage.to_json` tells, keys of `orphaned` and `foreign`
        objects and the number of `temporary` ones, see `Inventory` (all three harmless), if asked
        for `views` and `contents` (`checked` and `changed` samples), and with a teacher `teacher`,
        what `compare_logits` returns. Views and teacher are left out where there are faults before.

    Raises:
        SourceError: the source of the views cannot be opened.
        ModelError: the teacher cannot be opened.
        MismatchError: data that is not the cache's source, or a teacher for a cache that was
            recoded from a lossy one.
        UsageError: the cache holds no images, and `data` is not given; or settings without use; or
            contents of which the cache keeps no checksums.
        KdcacheError: a report that cannot be written, or is that of another cache.
    """
    cache = as_cache(cache)
    check_specs(
        cache,
        views=views,
        contents=contents,
        data=data,
        teacher=teacher,
        batch_size=batch_size,
        is_placed=compute is not None,
    )
    num_views = views or 0
    if views is None and teacher:
        num_views = TEACHER_VIEWS
    device: Compute | None = None
    if teacher:
        device = Compute(compute or compute_of(cache))
    source: Source | None = None
    if num_views or contents:
        source = source_of(cache, data)
    if contents and source is not None:
        _require_contents(cache, source)
    model: VisionModel | None = None
    if teacher:
        model = _open_teacher(cache, teacher)
    result, faults = _check_bytes(cache, CheckReport(cache, report), is_to_be_complete=complete)
    if contents and source is not None:
        result["contents"], content_faults = _check_contents(cache, source)
        faults += content_faults
    if num_views and source is not None and not faults:
        try:
            if model is not None:
                require_teacher(cache, model)
            result["views"] = _check_views(cache, source, num_views, num_requested=views)
            if model is not None and device is not None:
                result["teacher"] = compare_logits(
                    cache,
                    source,
                    model,
                    views=num_views,
                    batch_size=batch_size,
                    compute=device,
                )
                faults += logits_faults(cache, model, result["teacher"])
        except _FAULTS as error:
            faults.append(str(error))
    result["faults"] = [shortened(fault, MOST_MESSAGE) for fault in faults]
    return result


def _check_views(
    cache: Cache, source: Source, num_views: int, *, num_requested: int | None
) -> dict[str, int]:
    """Return what `check_views` returns; say so if it found fewer than the user asked for."""
    commits = [*probed_commits(cache, cache.seeds(), num_views)]
    with local_images(source, commits):
        counts = check_views(cache, source, commits, views=num_views)
    num_checked = counts["checked"]
    if num_requested and 0 < num_checked < num_requested:
        say(
            f"note: {num_requested} views were asked for, and {num_checked} can be compared with"
            " the dump"
        )
    return counts


def _require_contents(cache: Cache, source: Source) -> None:
    """Raise a UsageError if the contents of a source cannot be compared with what they were."""
    if isinstance(source, CachedSource):
        raise UsageError(
            f"cache {cache} holds its images itself, and its units' bytes are checked in any case; "
            "to compare the files that it was made from, give --data SPEC"
        )


def _check_contents(cache: Cache, source: Source) -> tuple[dict[str, int], list[str]]:
    """Return how many samples were compared and how many have changed, and the fault if any has."""
    names = changed_samples(cache, source)
    counts = {"checked": len(source), "changed": len(names)}
    if not names:
        return counts, []
    examples = [shown_name(name) for name in names]
    change = Change("sample", "has other contents than at the dump", examples)
    return counts, [f"data {source.spec}: {change.line(5)}"]


def _check_bytes(
    cache: Cache,
    report: CheckReport,
    *,
    is_to_be_complete: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return what is said of units and objects, and the faults that were found."""
    inventory = take_inventory(cache)
    groups = {cache.manifest.unit_seeds(first) for first, _ in inventory.commits}
    seeds = sorted(set[int]().union(*groups))
    faults = _faults_beside(cache)
    for seed in seeds:
        faults += cache.array_faults(seed)
    counts, unit_faults = check_units(cache, inventory, report)
    coverage = _coverage(cache, inventory, seeds)
    if is_to_be_complete and not coverage.is_complete:
        faults.append(f"cache {cache} is not complete: {coverage.what_is_missing()}; {FINISH}")
    result = {
        "cache": str(cache),
        **counts,
        **coverage.to_json(),
        "orphaned": [entry.key for entry in inventory.orphaned],
        "foreign": [entry.key for entry in inventory.foreign],
        "temporary": len(inventory.temporary),
    }
    return result, faults + unit_faults


def _coverage(cache: Cache, inventory: Inventory, seeds: list[int]) -> Coverage:
    """Return what is there of what was asked for, or, where that cannot be read, of the seeds
    begun."""
    try:
        return coverage_of(cache, inventory.commits)
    except CacheError:  # which is a fault already
        return coverage_of(cache, inventory.commits, seeds=seeds)


def _faults_beside(cache: Cache) -> list[str]:
    """Return what beside the units cannot be read: codec, fit, a subset's list of samples, stored
    views, the source's list, requests, groups of zarr."""
    faults = []
    paths = ["seeds"]
    for root, digest in cache.manifest.arrays.items():
        paths += [root, arrays_path(root, digest)]
    looks: list[Callable[[], object]] = [
        lambda: cache.codec,
        lambda: cache.samples,
        lambda: read_views(cache.storage, cache.manifest),
        lambda: read_list(cache),
        lambda: read_extents(cache.storage),
    ]
    looks += [partial(check_group, cache.storage, path) for path in paths]
    for look in looks:
        try:
            look()
        except KdcacheError as error:
            faults.append(str(error))
    return faults


def _open_teacher(cache: Cache, teacher: str) -> VisionModel:
    """Return the teacher that the user names; the manifest's spec is never opened: it could run
    code."""
    return open_model(
        teacher,
        classes=cache.manifest.classes,
        recipe=cache.recipe,
        trained=True,
        task=cache.manifest.task,
    )
