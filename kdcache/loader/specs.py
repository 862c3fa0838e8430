"""What a loader is told of its caches, checked before torch and data are there."""

from collections.abc import Sequence

from kdcache.cache import Cache, open_cache
from kdcache.cache.source import require_images
from kdcache.cache.storage.protocol import is_address
from kdcache.loader.cache_specs import CacheOptions, parse_cache
from kdcache.loader.cached_seeds import cached_seeds, require_repeats
from kdcache.loader.class_map import KnownClasses, class_map_of, require_readable
from kdcache.loader.config import LoaderConfig
from kdcache.loader.record_checks import check_tail
from kdcache.runtime.console import nothing_said
from kdcache.sources import class_names_of_spec
from kdcache.sources.selection import check_samples

OpenedCaches = Sequence[tuple[Cache, CacheOptions]]
"""Caches, and what is said of each."""


def local_caches(config: LoaderConfig) -> OpenedCaches:
    """Return the caches of a loader that are folders.

    A cache in a bucket takes long to ask, and one that is waited for may not be there yet.

    Raises:
        KdcacheError: one of them is no cache, or cannot be read.
    """
    if config.wait_for_units is not None:
        return []
    opened = []
    for text in config.caches:
        path, options = parse_cache(text)
        if not is_address(path):
            opened.append((open_cache(path), options))
    return opened


def check_caches(config: LoaderConfig, opened: OpenedCaches) -> None:
    """Check seeds, tails and classes of the caches that `local_caches` gives. Nothing is said: it
    is when the loader is opened.

    Raises:
        KdcacheError: one of them cannot be read, or is not for what the loader is told.
    """
    with nothing_said():
        if len(opened) == len(config.caches):
            _check_together(config, [cache for cache, _ in opened])
        for cache, options in opened:
            check_tail(cache, config.tail, is_mapped=options.classes is not None)
            _check_classes(config, cache, options)


def _check_together(config: LoaderConfig, caches: Sequence[Cache]) -> None:
    """Check what all caches of a loader hold; without one there are as many seeds as are asked
    for."""
    length = None
    if caches:
        require_repeats(config, cached_seeds(config, caches))
        length = caches[0].manifest.rows
        if config.data is None:
            require_images(caches[0])
    if config.samples is not None:
        check_samples(config.samples, length)


def _check_classes(config: LoaderConfig, cache: Cache, options: CacheOptions) -> None:
    """Check the classes of a cache's teacher against those of the data, as far as these are
    known."""
    names = None
    if config.data is not None:
        names = class_names_of_spec(config.data)
    if config.data is not None and names is not None:
        class_map_of(cache, options, KnownClasses(config.data, names))
    else:
        require_readable(options)
