"""Caches: units of records under create-only commits, read through verified slabs."""

from kdcache.cache.cache import Cache
from kdcache.cache.documents.commit import Commit
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.documents.manifest_checks import FORMAT_VERSION
from kdcache.cache.documents.versions import library_versions
from kdcache.cache.opening import create_cache, open_cache
from kdcache.cache.slab import Slab
from kdcache.cache.unit_sizes import record_layout, stored_bytes, tar_layout

__all__ = [
    "FORMAT_VERSION",
    "Cache",
    "Commit",
    "Manifest",
    "Slab",
    "create_cache",
    "library_versions",
    "open_cache",
    "record_layout",
    "stored_bytes",
    "tar_layout",
]
