"""Arrays beside the units: a codec's fit, a subset's numbers, the list of the source.

Their name is their own digest, so that two writers never mix theirs.

The manifest names the digest, and is published after them: whoever publishes the manifest first decides.
"""

import hashlib
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from kdcache.cache.manifest import CODEC, SAMPLES, SOURCE
from kdcache.cache.objects import Objects
from kdcache.cache.rereading import read_twice
from kdcache.cache.seal import parsed
from kdcache.cache.shard import check_frame
from kdcache.cache.zarr_store import MOST_METADATA, contents, put
from kdcache.errors import CacheError, DamagedError, quoted

T = TypeVar("T")
ROOTS = {
    CODEC: "the fit of its codec",
    SAMPLES: "the list of its samples",
    SOURCE: "the list of its source",
}
"""What lies under which name, in words."""
_MOST_ARRAYS = 16
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
        DamagedError: arrays that are absent, or not what was written.
        CacheError: they cannot be read.
    """
    return read_twice(lambda is_fresh: _read_all(objects, root, digest, most, is_fresh))


def _read_all(objects: Objects, root: str, digest: str, most: int, is_fresh: bool) -> dict[str, np.ndarray]:
    path = arrays_path(root, digest)
    error = damaged(objects, root, digest)
    names = [name for name in objects.list(path) if objects.exists(f"{path}/{name}/zarr.json")]
    arrays: dict[str, np.ndarray] = {}
    for name in names[:_MOST_ARRAYS]:
        left = most - sum(array.nbytes for array in arrays.values())
        arrays[name] = _read(objects, f"{path}/{name}", left, is_fresh, error)
    if arrays_digest(arrays) != digest:
        raise error
    return arrays


def damaged(objects: Objects, root: str, digest: str) -> DamagedError:
    """Return the error of arrays that are absent, or not what was written."""
    path = arrays_path(root, digest)
    return DamagedError(f"cache {objects}: {ROOTS[root]} ({path}) is absent or damaged; restore it from a copy")


def _read(objects: Objects, path: str, most: int, is_fresh: bool, error: DamagedError) -> np.ndarray:
    """Return an array of which only shape and type are taken from its zarr.json: another could name any codec.

    Raises:
        DamagedError: `error`: another type, more than `most` bytes, or an object that is no such thing.
    """

    def checked(key: str, room: int, check: Callable[[bytes], T]) -> T:
        def read(again: bool) -> T:
            try:
                return check(objects.get(key, most=room, is_fresh=is_fresh or again))
            except CacheError:
                raise
            except Exception as raised:  # zarr raises what it likes on damaged bytes
                raise error from raised

        return read_twice(read)

    shape, dtype = checked(f"{path}/zarr.json", MOST_METADATA, lambda data: _shape(data, most))
    size = prod(shape) * dtype.itemsize
    room = size + size // 128 + 1024  # what zstd cannot compress takes a little more
    key = f"{path}/c/{'/'.join('0' for _ in shape)}"
    return checked(key, room, lambda data: _decoded(path, key, data, shape, dtype))


def _shape(data: bytes, most: int) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    document = parsed(data, most_values=MOST_METADATA)
    shape = tuple(document["shape"])
    dtype = np.dtype(_TYPES[document["data_type"]])
    is_shape = all(type(side) is int and side > 0 for side in shape)
    if not is_shape or prod(shape) * dtype.itemsize > most:
        raise ValueError(f"an array of shape {quoted(shape)}")
    return shape, dtype


def _decoded(path: str, key: str, data: bytes, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> np.ndarray:
    check_frame(data, prod(shape) * dtype.itemsize)
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
