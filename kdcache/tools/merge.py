"""Several caches made alike, merged to one."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.cache import Cache, open_cache
from kdcache.cache.committing import require_written
from kdcache.cache.coverage import ask_for_units, coverage_of
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import require_apart
from kdcache.cache.source_check import source_differences
from kdcache.config.arguments import checked_arguments
from kdcache.errors import (
    MismatchError,
    UsageError,
)
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.runtime.stopping import heeding, look
from kdcache.runtime.wording import counted
from kdcache.tools.unit_copies import copied_result, copy_units, created_from


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
