"""Arrays beside the units: a codec's fit, a subset's numbers, the list of the source.

Their name is their own digest, so that two writers never mix theirs.

The manifest names the digest, and is published after them: whoever publishes the manifest first decides.
"""

import hashlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from kdcache.cache.manifest import CODEC, SAMPLES, SOURCE
from kdcache.cache.objects import Objects
from kdcache.cache.seal import parsed
from kdcache.cache.shard import check_frame
from kdcache.cache.zarr_store import contents, put
from kdcache.errors import CacheError

ROOTS = {
    CODEC: "the fit of its codec",
    SAMPLES: "the list of its samples",
    SOURCE: "the list of its source",
}
"""What lies under which name, in words."""
_MOST_ARRAYS, _MOST_METADATA = 16, 1 << 16
_TYPES = {"float16": "<f2", "float32": "<f4", "uint32": "<u4", "uint8": "|u1"}


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def publish_arrays(objects: Objects, root: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays as zarr groups and arrays; what is there already stays."""
    store, path = MemoryStore(), arrays_path(root, arrays_digest(arrays))
    for name, array in arrays.items():
        _created(store, f"{path}/{name}", array.shape, array.dtype)[...] = array
    for key, data in contents(store).items():
        if key != "zarr.json":
            objects.publish(key, data)


def read_arrays(objects: Objects, root: str, digest: str, *, most: int) -> dict[str, np.ndarray]:
    """Return the arrays that a manifest names.

    Args:
        objects: of the cache.
        root: what arrays, see `ROOTS`.
        digest: of the arrays.
        most: bytes that all arrays may have.

    Raises:
        CacheError: arrays that are absent, or not what was written.
    """
    path = arrays_path(root, digest)
    try:
        names = [name for name in objects.list(path) if objects.exists(f"{path}/{name}/zarr.json")]
        arrays: dict[str, np.ndarray] = {}
        for name in names[:_MOST_ARRAYS]:
            arrays[name] = _read(objects, f"{path}/{name}", most - sum(array.nbytes for array in arrays.values()))
        whole = arrays_digest(arrays) == digest
    except CacheError:
        raise
    except Exception:  # zarr raises what it likes on damaged bytes
        whole = False
    if not whole:
        raise damaged(objects, root, digest)
    return arrays


def damaged(objects: Objects, root: str, digest: str) -> CacheError:
    """Return the error of arrays that are absent, or not what was written."""
    path = arrays_path(root, digest)
    return CacheError(f"cache {objects}: {ROOTS[root]} ({path}) is absent or damaged: restore it from a copy")


def _read(objects: Objects, path: str, most: int) -> np.ndarray:
    """Return an array of which only shape and type are taken from its zarr.json: another could name any codec.

    Raises:
        ValueError: another type, or more than `most` bytes.
    """
    document = parsed(objects.get(f"{path}/zarr.json", most=_MOST_METADATA))
    shape, dtype = tuple(document["shape"]), np.dtype(_TYPES[document["data_type"]])
    size = prod(shape) * dtype.itemsize
    if not all(type(side) is int and side > 0 for side in shape) or size > most:
        raise ValueError(f"an array of shape {shape}")
    key = f"{path}/c/{'/'.join('0' for _ in shape)}"
    data = objects.get(key, most=size + size // 128 + 1024)  # what zstd cannot compress takes a little more
    check_frame(data, size)
    store = MemoryStore()
    array = _created(store, path, shape, dtype)
    put(store, key, data)
    return np.asarray(array[...])


def _created(store: MemoryStore, path: str, shape: tuple[int, ...], dtype: Any) -> Any:
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        chunks=shape,
        dtype=dtype,
        compressors=[ZstdCodec(level=12), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def arrays_path(root: str, digest: str) -> str:
    """Return the path of arrays inside the cache."""
    return f"{root}/{digest[:16]}"
