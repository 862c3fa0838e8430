"""Garbage: what killed writers left in a cache, told from what writers that are at work are about
to use."""

import re
import time
from pathlib import Path
from typing import Any

from kdcache.cache import Cache
from kdcache.cache.inventory import Inventory, take_inventory
from kdcache.cache.opening import as_cache
from kdcache.cache.storage.protocol import Entry
from kdcache.config.arguments import checked_arguments
from kdcache.errors import LargeObjectError, UsageError, quoted

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_age(text: str) -> float:
    """Return the seconds in `7d`, `12h`, `30m` or `90s`.

    Raises:
        UsageError: another text.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not match:
        raise UsageError(
            f"age {quoted(text)} is not a number of up to 6 digits and a unit, s, m, h or d;"
            " write 7d"
        )
    number, unit = match.groups()
    return float(number) * _SECONDS[unit]


@checked_arguments
def collect_garbage(
    cache: Cache | str | Path, *, older_than: str = "7d", delete: bool = False
) -> dict[str, Any]:
    """Remove, or only tell, the temporary and orphaned objects of `cache` that are older than an
    age.

    No committed object is touched, and nothing that is not of this layout. An orphaned object of a
    unit goes only if nothing at all was written to the cache within the age: a dump that is at work
    may take it up at any moment, however old it is.

    Args:
        cache: the cache, or its path.
        older_than: the age, such as `7d`.
        delete: whether they are removed.

    Returns:
        `cache`, `is_deleted`, the `keys` and `bytes` that were or would be removed, how many are
        kept as too `young`, and how many orphaned ones because the cache is `busy`.

    Raises:
        UsageError: an age that is none.
        CacheError: an object that cannot be read or removed.
    """
    limit = time.time() - parse_age(older_than)
    cache = as_cache(cache)
    inventory = take_inventory(cache)
    is_busy = _last_written(inventory) >= limit
    num_young = 0
    num_busy = 0
    candidates = []
    for entry in [*inventory.temporary, *inventory.orphaned]:
        if entry.time >= limit:
            num_young += 1
        elif is_busy and cache.format.unit_of(entry.key):
            num_busy += 1
        else:
            candidates.append(entry)
    keys = []
    num_bytes = 0
    for entry in candidates:
        if delete and not _remove(cache, entry):
            continue
        keys.append(entry.key)
        num_bytes += entry.size
    return {
        "cache": str(cache),
        "is_deleted": delete,
        "keys": keys,
        "bytes": num_bytes,
        "young": num_young,
        "busy": num_busy,
    }


def _last_written(inventory: Inventory) -> float:
    """Return when an object of the cache was last written; 0 if it has none."""
    entries = [*inventory.commits.values(), *inventory.temporary, *inventory.orphaned]
    return max((entry.time for entry in entries), default=0.0)


def _remove(cache: Cache, entry: Entry) -> bool:
    """Remove an object, unless its unit is committed by now; if it is just afterwards, put it
    back. Return whether it is gone."""
    unit = cache.format.unit_of(entry.key)
    if unit is None:
        cache.storage.remove(entry.key)
        return True
    if cache.is_committed(*unit):
        return False
    most = cache.format.most_bytes(unit[1])
    try:
        return _remove_of_unit(cache, entry.key, unit, most)
    except (FileNotFoundError, LargeObjectError):
        # a link to nothing, or more bytes than a unit has: no writer can take it up
        cache.storage.remove(entry.key)
        return True


def _remove_of_unit(cache: Cache, key: str, unit: tuple[int, int], most: int) -> bool:
    """Remove the object of a unit, unless that is committed just afterwards; return whether it is
    gone."""
    with cache.storage.blocks(key, most=most) as blocks:
        cache.storage.remove(key)
        # a writer looks for the object after its commit, and this for the commit after the removal:
        # one of them sees the other
        is_needed = cache.is_committed(*unit)
        if is_needed:
            cache.storage.publish(key, blocks.read(0, blocks.size))
    return not is_needed
