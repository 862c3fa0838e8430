"""Writing units into a cache: an object, then the commit that makes it count.

A cache may be moved, removed or begun anew while a job writes into it. Each commit looks for the
manifest first, and a job that is done reads it again, so that nothing is written beside a cache, or
into another, and called a success.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from kdcache.cache.cache import Cache
from kdcache.cache.documents.commit import Commit, also_absent, commit_key
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.versions import library_versions
from kdcache.cache.formats.protocol import StoredSample, Unit
from kdcache.cache.opening import open_cache
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.rereading import agreed_bytes
from kdcache.cache.subset import thinned
from kdcache.cache.writer_name import writer_name
from kdcache.errors import CacheError
from kdcache.shapes import Records


def require_manifest(cache: Cache, *, reads: bool = False) -> None:
    """Check that the cache is still there, and still the one that was opened.

    Args:
        cache: that a job writes into.
        reads: whether to read the manifest in any case; else only if it is another object than
            before.

    Raises:
        CacheError: it is gone, or another cache has taken its place.
    """
    stamp = cache.storage.stamp(MANIFEST)
    if stamp is not None and stamp == cache.stamp and not reads:
        return
    try:
        present = open_cache(cache.storage)
    except CacheError as error:
        if cache.storage.exists(MANIFEST):
            raise
        raise CacheError(
            f"cache {cache} is no longer there: it has lost its manifest ({MANIFEST}), or was moved"
            " or removed, while this job wrote into it. Nothing more is written; put it back, and"
            " run the same command again"
        ) from error
    if present.manifest.digest != cache.manifest.digest:
        raise CacheError(
            f"cache {cache} is no longer the one that this job writes into: another manifest is in"
            " its place. Nothing more is written; choose a new folder, and run the same command"
            " again"
        )
    cache.stamp = stamp


def require_written(cache: Cache, units: Iterable[Unit]) -> None:
    """Check, before a job says that it has succeeded, that all it was to write is in the cache.

    Args:
        cache: that it wrote into.
        units: that are to be there.

    Raises:
        CacheError: units that are not, or what `require_manifest` says.
    """
    require_manifest(cache, reads=True)
    lost = {*units} - {*cache.committed()}
    if lost:
        seed, unit = min(lost)
        raise CacheError(
            f"cache {cache} lacks {len(lost)} units that were written, the first is "
            f"{cache.unit_name(seed, unit)}: something removes them; run the same command again"
        )


def start_seed(cache: Cache, seed: int) -> None:
    """Publish what plain readers need beside a seed's units; growth changes no existing object."""
    for key, data in cache.format.metadata(seed).items():
        cache.storage.publish(key, data)


def commit_unit(
    cache: Cache,
    seed: int,
    unit: int,
    records: Records,
    samples: Sequence[StoredSample] = (),
    **facts: Any,
) -> Commit:
    """Publish a unit and its commit, and return the commit that counts.

    Of several writers of one unit the first wins; the others adopt its object, after checking it.
    Into a subset nothing goes of rows that it does not hold: their records are zeros, and of their
    samples the names stay.

    Args:
        cache: the cache.
        seed: the first of the unit's seeds.
        unit: its number.
        records: `[rows]`, or of several seeds `[seeds, rows]`.
        samples: of its rows, for a webdataset store.
        facts: the commit's other fields: `absent`, `probes`, `statistics`, `writer` of one of
            several workers, and `versions` if others rendered the views.

    Raises:
        CacheError: the cache cannot be written, or is no longer there.
        DamagedUnitError: an object of that name is there and cannot be decoded.
    """
    require_manifest(cache)
    manifest = cache.manifest
    rows = manifest.unit_range(unit)
    seeds = manifest.unit_seeds(seed)
    assert seed == seeds[0] and records.dtype == manifest.dtype
    records = records.reshape(len(seeds), len(rows))
    if cache.samples is not None:
        is_held = cache.is_held[rows.start : rows.stop]
        records, samples, facts = thinned(
            manifest, is_held, rows.start, records=records, samples=samples, facts=facts
        )
    key = cache.format.key(seed, unit)
    data = encode_unit(cache, unit, records, samples)
    if not cache.storage.publish(key, data):
        data, winner = _winner(cache, seed, unit)
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
    if not cache.storage.publish(commit_key(seed, unit), commit.to_bytes()):
        return cache.commit_of(seed, unit)
    if not cache.storage.exists(key):  # `gc` took it, which looked just before there was a commit
        cache.storage.publish(key, data)
    return commit


def encode_unit(
    cache: Cache, unit: int, records: Records, samples: Sequence[StoredSample] = ()
) -> bytes:
    """Return the bytes that `records` would take as an object, publishing nothing.

    Raises:
        CacheError: samples that this store cannot name.
    """
    try:
        return cache.format.encode(unit, records, samples)
    except ValueError as error:
        raise CacheError(f"cache {cache}: {error}") from error


def _winner(cache: Cache, seed: int, unit: int) -> tuple[bytes, Records]:
    """Return the object of a unit that another writer published first, and its records."""
    key = cache.format.key(seed, unit)
    name = f"cache {cache}, {cache.unit_name(seed, unit)}"
    where = f"{name}; delete {cache.storage}/{key} and run the dump again"

    def look(blocks: Blocks) -> None:
        cache.look_through(unit, blocks, where)

    most = cache.format.most_bytes(unit)
    try:
        data = agreed_bytes(cache.storage, key, most=most, look=look)
    except FileNotFoundError:
        raise CacheError(
            f"{name}: {key} was there a moment ago and is not; run the same command again"
        ) from None
    return data, cache.decode_bytes(unit, data, where)
