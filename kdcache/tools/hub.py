"""Caches on the Hugging Face hub: published with their manifest last, and fetched at one revision,
checked on the way."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.cache import Cache, open_cache
from kdcache.cache.arrays import arrays_path
from kdcache.cache.committing import require_written
from kdcache.cache.coverage import ask_for_units, coverage_of
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import read_extents
from kdcache.cache.documents.limits import MOST_MANIFEST
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.formats.zarr import MOST_METADATA
from kdcache.cache.inventory import CARD, take_inventory
from kdcache.cache.storage.rereading import agreed_bytes
from kdcache.config.arguments import checked_arguments
from kdcache.runtime.console import progress
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.runtime.text_files import path_bytes
from kdcache.tools.hub_card import card_text
from kdcache.tools.hub_client import address_of, one_line_errors, open_api, parse_address
from kdcache.tools.hub_sender import Sender
from kdcache.tools.hub_storage import HubStorage
from kdcache.tools.unit_copies import copied_result, copied_units, created_from

_MANIFEST = "zarr.json"


@checked_arguments
def push_cache(cache: str | Path, address: str, *, private: bool = False) -> dict[str, Any]:
    """Publish a cache; run again, it goes on where it stopped, and later adds what has come since.

    Every object is checked against its commit before it is sent, and goes with its commit. The
    manifest comes last: until then there is no cache to be seen.

    Args:
        cache: the cache; of one that is not complete what is there.
        address: `hf://datasets/ORG/NAME`; made if it is not there.
        private: whether it is made for its owner only.

    Returns:
        `address`, `revision` (the hub's commit), `objects` sent now and their `bytes`, the
        `seconds` it took, and what `Coverage.to_json` tells.

    Raises:
        UsageError: an address of another form, or huggingface_hub is not installed.
        MismatchError: another cache is there.
        CacheError: a damaged unit, no connection, or no right to write.
    """
    repo = parse_address(address)
    source = open_cache(cache)
    start = time.monotonic()
    with one_line_errors(address_of(repo)):
        open_api().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    storage = HubStorage(repo)
    if storage.exists(_MANIFEST):
        open_cache(storage).require(source.manifest)
    sender = Sender(storage)
    units = list(take_inventory(source).commits)
    with heeding(lambda: f": {sender.num_objects} objects sent"):
        _send_units(sender, source, units)
    coverage = coverage_of(source, units)
    card = card_text(source, address, coverage.complete_seeds)
    sender.add({CARD: path_bytes(card)}, replaces=True)
    if not storage.exists(_MANIFEST):
        sender.add({_MANIFEST: agreed_bytes(source.storage, _MANIFEST, most=MOST_MANIFEST)})
    sender.flush()
    return {
        "address": address,
        "revision": sender.revision,
        "objects": sender.num_objects,
        "bytes": sender.num_bytes,
        "seconds": time.monotonic() - start,
        **coverage.to_json(),
    }


def _send_units(sender: Sender, cache: Cache, units: Sequence[Unit]) -> None:
    """Send units, each with its commit, after what readers need beside them; until the process is
    told to stop."""
    with progress("push", len(units), "units") as bar:
        for key in until_stopped(_keys_beside(cache, units)):
            sender.add({key: agreed_bytes(cache.storage, key, most=_most_beside(cache))})
        for unit in until_stopped(units):
            commit = cache.whole_commit(*unit)
            data = cache.unit_bytes(commit)
            sender.add({cache.format.key(*unit): data, commit_key(*unit): commit.to_bytes()})
            bar.advance(1)
        sender.flush()
        look()


def _keys_beside(cache: Cache, units: Sequence[Unit]) -> list[str]:
    """Return the keys of all that readers need beside units and manifest."""
    keys: list[str] = []
    for root, digest in cache.manifest.arrays.items():
        keys += [entry.key for entry in cache.storage.walk(arrays_path(root, digest))]
    metadata: set[str] = set()
    for seed, _ in units:
        metadata |= cache.format.metadata(seed).keys()
    keys += sorted(metadata)
    keys += [extent.key for extent in read_extents(cache.storage)]
    return keys


def _most_beside(cache: Cache) -> int:
    """Return the bytes that an object beside the units has at most: one of an array, or what
    plain zarr needs."""
    most = MOST_METADATA
    for root in cache.manifest.arrays:
        most = max(most, cache.manifest.most_object(root))
    return most


@checked_arguments
def pull_cache(address: str, new: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Fetch a published cache; run again, it goes on where it stopped.

    Args:
        address: `hf://datasets/ORG/NAME`.
        new: the cache that it becomes: a new one, or one with the same manifest, which grows.
        revision: the hub's commit, or a branch or tag; by default what is newest.

    Returns:
        `cache`, `address`, `revision` (the hub's commit), `units_written` now, their `bytes`, the
        `seconds` they took, and what `Coverage.to_json` tells.

    Raises:
        UsageError: an address of another form, or huggingface_hub is not installed.
        MismatchError: `new` is another cache.
        CacheError: there is no cache, a damaged unit, or no connection.
    """
    start = time.monotonic()
    storage = HubStorage(parse_address(address), revision)
    source = open_cache(storage)
    target = created_from(new, source, source.manifest, source.samples)
    units = source.committed()
    ask_for_units(target, coverage_of(source, units).asked)
    sizes = copied_units(source, target, units)
    require_written(target, units)
    return {
        "cache": str(target),
        "address": address,
        "revision": storage.revision,
        **copied_result(target, len(sizes), sum(sizes), start),
    }
