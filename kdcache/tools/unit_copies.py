"""Units copied from cache to cache as they are, with their commits.

Of a subset of the samples the units are the same ones, with the same rows: a row's place says which
sample it is, and views, partners and probes depend on that. What is not in the subset is zeros.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcache.cache import Cache, Manifest
from kdcache.cache.committing import commit_unit, require_manifest, start_seed
from kdcache.cache.coverage import coverage_of
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import create_from
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.rereading import agreed_bytes
from kdcache.errors import (
    CacheError,
    LargeObjectError,
)
from kdcache.runtime.console import progress
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.shapes import Rows


def created_from(new: str | Path, source: Cache, manifest: Manifest, samples: Rows | None) -> Cache:
    """Return the cache at `new` with this manifest, made with what readers need of `source` if it
    is not there yet."""
    target = create_from(source, new, manifest, source.fit(), samples=samples)
    target.require(manifest)
    return target


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
