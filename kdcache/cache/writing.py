"""Writing units into a cache: an object, then the commit that makes it count."""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from kdcache.cache.cache import Cache
from kdcache.cache.commit import Commit, also_absent, commit_key
from kdcache.cache.manifest import library_versions
from kdcache.cache.subset import thinned
from kdcache.cache.units import StoredSample
from kdcache.cache.writer import writer_name
from kdcache.errors import CacheError
from kdcache.shapes import Records


def start_seed(cache: Cache, seed: int) -> None:
    """Publish what plain readers need beside a seed's units; growth changes no existing object."""
    for key, data in cache.format.metadata(seed).items():
        cache.objects.publish(key, data)


def commit_unit(
    cache: Cache, seed: int, unit: int, records: Records, samples: Sequence[StoredSample] = (), **facts: Any
) -> Commit:
    """Publish a unit and its commit, and return the commit that counts.

    Of several writers of one unit the first wins; the others adopt its object, after checking it. Into a subset nothing goes of
    rows that it does not hold: their records are zeros, and of their samples the names stay.

    Args:
        cache: the cache.
        seed: the first of the unit's seeds.
        unit: its number.
        records: `[rows]`, or of several seeds `[seeds, rows]`.
        samples: of its rows, for a webdataset store.
        facts: the commit's other fields: `absent`, `probes`, `statistics`, `writer` of one of several
            workers, and `versions` if others rendered the views.

    Raises:
        CacheError: the cache cannot be written.
        DamagedUnitError: an object of that name is there and cannot be decoded.
    """
    manifest = cache.manifest
    rows, seeds = manifest.unit_range(unit), manifest.unit_seeds(seed)
    assert seed == seeds[0] and records.dtype == manifest.dtype
    records = records.reshape(len(seeds), len(rows))
    if cache.samples is not None:
        held = cache.is_held[rows.start : rows.stop]
        records, samples, facts = thinned(manifest, held, rows.start, records=records, samples=samples, facts=facts)
    key, data = cache.format.key(seed, unit), encode_unit(cache, unit, records, samples)
    if not cache.objects.publish(key, data):
        where = f"cache {cache}, {cache.unit_name(seed, unit)}"
        data = _winner(cache, key, where)
        winner = cache.decode_bytes(unit, data, f"{where}; delete {key} and run the dump again")
        if manifest.skip_unreadable:
            facts["absent"] = also_absent(facts.get("absent", []), rows, seeds, winner, records)
    commit = Commit(
        seed=seed,
        unit=unit,
        start=rows.start,
        stop=rows.stop,
        key=key,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        write_id=secrets.token_hex(8),
        **{"versions": library_versions(), "writer": writer_name(), **facts},
    )
    if not cache.objects.publish(commit_key(seed, unit), commit.to_bytes()):
        return cache.commit_of(seed, unit)
    if not cache.objects.exists(key):  # `gc` took it, which looked just before there was a commit
        cache.objects.publish(key, data)
    return commit


def encode_unit(cache: Cache, unit: int, records: Records, samples: Sequence[StoredSample] = ()) -> bytes:
    """Return the bytes that `records` would take as an object, publishing nothing.

    Raises:
        CacheError: samples that this store cannot name.
    """
    try:
        return cache.format.encode(unit, records, samples)
    except ValueError as error:
        raise CacheError(f"cache {cache}: {error}") from error


def _winner(cache: Cache, key: str, where: str) -> bytes:
    try:
        return cache.objects.get(key)
    except FileNotFoundError:
        raise CacheError(f"{where}: {key} was there a moment ago and is not; run the same command again") from None
