"""Stored views of a cache: arrays beside the units, which its recipe names."""

from kdcache.cache.arrays import damaged, read_arrays
from kdcache.cache.documents.manifest import VIEWS, Manifest
from kdcache.cache.storage.protocol import Storage
from kdcache.views.stored_views import StoredViews


def read_views(storage: Storage, manifest: Manifest) -> StoredViews | None:
    """Return the stored views of a cache; None of a recipe that names none.

    Raises:
        CacheError: they are absent, or no such views.
    """
    if manifest.views is None:
        return None
    digest = manifest.arrays[VIEWS]
    arrays = read_arrays(storage, VIEWS, digest, most=manifest.most_bytes(VIEWS))
    try:
        views = StoredViews.from_arrays(arrays, digest)
    except ValueError as error:
        raise damaged(storage, VIEWS, digest) from error
    if (views.num_seeds, views.num_samples) != (manifest.views.seeds, manifest.rows):
        raise damaged(storage, VIEWS, digest)
    return views
