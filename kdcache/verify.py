"""Verification: every unit against its commit, byte by byte; what is missing; and views against their probes."""

from typing import Any

from kdcache.cache import Cache
from kdcache.drift import check_views
from kdcache.errors import CacheError, DriftError, KdcacheError, MismatchError, UsageError
from kdcache.sources import is_images_only, open_source
from kdcache.tracking import progress


def verify_cache(cache: Cache, *, views: int = 0, data: str | None = None) -> dict[str, Any]:
    """Check every committed unit's commit, bytes, SHA-256 and zarr checksums, each seed's zarr metadata, and the codec's fit.

    Args:
        cache: the cache.
        views: how many probed views to render again and compare, besides.
        data: spec of the source for these; by default the one that the manifest names.

    Returns:
        `units` and `bytes` checked, `seeds`, `faults` (one line each), `missing` units of seeds that are not complete,
        `temporary` files that killed writers left (harmless), and `views` if asked for.

    Raises:
        SourceError: the source of the views cannot be opened.
        UsageError: the manifest names one that could run code, and `data` is not given.
    """
    source = open_source(data or _recorded_source(cache)) if views else None
    units = [(seed, unit) for seed in cache.seeds() for unit in cache.committed_units(seed)]
    faults = [*_codec_faults(cache), *(fault for seed in cache.seeds() for fault in cache.array_faults(seed))]
    size = 0
    with progress("verify", len(units), "units") as bar:
        for seed, unit in units:
            try:
                commit = cache.commit_of(seed, unit)
                cache.read_unit(commit)
                size += commit.num_bytes
            except CacheError as error:
                faults.append(str(error))
            bar.advance(1)
    report: dict[str, Any] = {
        "cache": str(cache.folder),
        "seeds": cache.seeds(),
        "units": len(units),
        "bytes": size,
        "missing": {seed: missing for seed in cache.seeds() if (missing := cache.missing_units(seed))},
        "temporary": sum(1 for _ in cache.folder.temporaries()),
    }
    if source is not None and not faults:
        try:
            if source.fingerprint != cache.manifest.source["fingerprint"]:
                raise MismatchError(f"data {source.spec} is not the source of cache {cache.folder}; give --data SPEC")
            report["views"] = check_views(cache, source, cache.seeds(), views=views)
        except (DriftError, MismatchError) as error:
            faults.append(str(error))
    return {**report, "faults": faults}


def _codec_faults(cache: Cache) -> list[str]:
    """Return what keeps the records from being decoded: a codec that is unknown here, or whose fit is damaged."""
    try:
        _ = cache.codec
    except KdcacheError as error:
        return [str(error)]
    return []


def _recorded_source(cache: Cache) -> str:
    """Return the spec of the manifest's source, unless opening it could run what a cache from elsewhere says."""
    spec = str(cache.manifest.source["spec"])
    if not is_images_only(spec):
        raise UsageError(f"cache {cache.folder} was made from {spec}, which can run code; if you trust it: --data {spec}")
    return spec
