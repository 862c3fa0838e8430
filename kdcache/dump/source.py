"""The source of a dump: compared with what the cache was made from, or listed for a new cache."""

from dataclasses import dataclass, replace

from kdcache.cache import Cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.documents.parts import SourceEntry
from kdcache.cache.sample_checksums import CheckedSource, checked_source, checksums_of
from kdcache.cache.source_check import require_source
from kdcache.cache.source_list import (
    SourceList,
    has_lost_list,
    kept_list,
    list_of,
    require_unique_keys,
    source_entry,
)
from kdcache.dump.config import DumpConfig
from kdcache.dump.present_cache import require_same_digests
from kdcache.errors import UsageError
from kdcache.sources import Source


@dataclass(frozen=True, kw_only=True)
class KnownSource:
    """A source, and what is known of it."""

    source: Source
    """Compared with its checksums as it is read, if there are any."""
    listing: SourceList | None = None
    """What a cache is to keep that is new, or has lost it."""
    entry: SourceEntry
    """What the manifest says of it."""


def known_source(
    config: DumpConfig,
    source: Source,
    cache: Cache | None,
    *,
    is_plan: bool,
) -> KnownSource:
    """Return the source of a dump, after checking that it is that of the cache, or listing it.

    Args:
        config: what the dump is told.
        source: as it was opened.
        cache: if it is there already.
        is_plan: whether the dump is only to be planned: no checksums of the data are made then.

    Raises:
        MismatchError: the cache was made from another source, or with other settings.
        UsageError: checksums that cannot be made, or kept; equal keys for a webdataset store.
        SourceError: a sample or file that cannot be read.
    """
    if cache is not None:
        require_source(cache, source)
        require_same_digests(config, cache)
        entry = replace(cache.manifest.source, spec=source.spec, classes=source.classes)
        listing = None
        if not is_plan and has_lost_list(cache):
            listing = _list_anew(config, cache, source)
        if listing is not None and listing.crc32c is not None:
            source = CheckedSource(source, listing.crc32c, config.cache)
        else:
            source = checked_source([cache], source)
        return KnownSource(source=source, listing=listing, entry=entry)
    whole = list_of(source)
    if config.store == "webdataset":
        require_unique_keys(source, whole.names)
    listing = kept_list(whole)
    if config.content_digests and not is_plan:
        listing = _require_list(source, listing)
        checksums = checksums_of(source, skip_unreadable=config.skip_unreadable)
        listing = replace(listing, crc32c=checksums)
        source = CheckedSource(source, checksums, config.cache)
    return KnownSource(source=source, listing=listing, entry=source_entry(source, listing))


def _list_anew(config: DumpConfig, cache: Cache, source: Source) -> SourceList | None:
    """Return the list that a cache has lost; None if it can no longer be made as it was."""
    listing = list_of(source)
    if cache.manifest.source.contents is not None:
        checksums = checksums_of(source, skip_unreadable=config.skip_unreadable)
        listing = replace(listing, crc32c=checksums)
    if arrays_digest(listing.arrays) != cache.manifest.source.list:
        return None
    return listing


def _require_list(source: Source, listing: SourceList | None) -> SourceList:
    """Return the list, without which no checksums can be kept."""
    if listing is None:
        raise UsageError(
            f"source {source.spec}: its list, which content digests belong to, is too large to be "
            "kept; leave --content-digests out"
        )
    return listing
