"""A codec's fit in the cache: zarr arrays under a name that is their own digest, so that two writers never mix theirs.

The manifest names the digest, and is published after them: whoever publishes the manifest first decides the fit.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from kdcache.cache.objects import Objects
from kdcache.cache.zarr_store import contents, store_contents
from kdcache.errors import CacheError

FIT_ROOT = "codec"
_MOST_FIT = 1 << 29  # a basis of 21,841 classes has 120 MB


def fit_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def publish_fit(objects: Objects, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays as zarr groups and arrays; what is there already stays."""
    store = MemoryStore()
    for name, array in arrays.items():
        zarr.create_array(
            store,
            name=f"{fit_path(fit_digest(arrays))}/{name}",
            data=array,
            chunks=array.shape,
            compressors=[ZstdCodec(level=12), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
    for key, data in contents(store).items():
        if key != "zarr.json":
            objects.publish(key, data)


def read_fit(objects: Objects, digest: str) -> dict[str, np.ndarray]:
    """Return the arrays of the fit that a manifest names.

    Raises:
        CacheError: arrays that are absent, or not what was written.
    """
    path = fit_path(digest)
    try:
        keys = [entry.key for entry in objects.walk(path)]
        names = sorted({key.removeprefix(f"{path}/").partition("/")[0] for key in keys} - {"zarr.json"})
        store = store_contents({key: objects.get(key, most=_MOST_FIT) for key in keys})
        arrays = {name: np.asarray(zarr.open_array(store, path=f"{path}/{name}", mode="r")[...]) for name in names}
        whole = fit_digest(arrays) == digest
    except CacheError:
        raise
    except Exception:  # zarr raises what it likes on damaged bytes
        whole = False
    if not whole:
        raise CacheError(f"cache {objects}: the fit of its codec ({path}) is absent or damaged: restore it from a copy")
    return arrays


def fit_path(digest: str) -> str:
    """Return the path of a fit inside the cache."""
    return f"{FIT_ROOT}/{digest[:16]}"
