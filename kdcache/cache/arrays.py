"""Arrays beside the units: a codec's fit, a subset's numbers, the list of the source,
stored views.

Their name is their own digest, so that two writers never mix theirs.

The manifest names the digest, and is published after them: whoever publishes the manifest first
decides.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numcodecs import Zstd
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from kdcache.cache.documents.document import parsed
from kdcache.cache.documents.limits import most_decoded
from kdcache.cache.documents.manifest import CODEC, SAMPLES, SOURCE, VIEWS
from kdcache.cache.formats.shard import check_frame
from kdcache.cache.formats.zarr import MOST_METADATA, contents
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.errors import CacheError, DamagedError, quoted

T = TypeVar("T")
ROOTS = {
    CODEC: "the fit of its codec",
    SAMPLES: "the list of its samples",
    SOURCE: "the list of its source",
    VIEWS: "what is stored of its views",
}
"""What lies under which name, in words."""
_MOST_ARRAYS = 16
_CHECKSUM = 4
_LEVEL = 12
"""Of zstd."""
_SAMPLE = 1 << 24
"""Bytes of an array that are compressed to see how many all of it takes."""
_TYPES = {
    "float16": "<f2",
    "float32": "<f4",
    "int16": "<i2",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint8": "|u1",
}


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        # a view where values lie side by side: these may be gigabytes
        values = np.ascontiguousarray(array).reshape(-1)
        digest.update(values.view(np.uint8).data)
    return digest.hexdigest()


def publish_arrays(storage: Storage, root: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays as zarr groups and arrays; what is there already stays."""
    store = MemoryStore()
    path = arrays_path(root, arrays_digest(arrays))
    for name, array in arrays.items():
        _created(store, f"{path}/{name}", array.shape, array.dtype)[...] = array
    for key, data in contents(store).items():
        if key != "zarr.json":
            storage.publish(key, data)


def read_arrays(storage: Storage, root: str, digest: str, *, most: int) -> dict[str, np.ndarray]:
    """Return the arrays that a manifest names.

    Args:
        storage: of the cache.
        root: what arrays, see `ROOTS`.
        digest: of the arrays.
        most: bytes that all arrays may have.

    Raises:
        DamagedError: arrays that are absent, or not what was written.
        CacheError: they cannot be read.
    """
    return read_twice(lambda is_fresh: _read_all(storage, root, digest, most, is_fresh))


def _read_all(
    storage: Storage, root: str, digest: str, most: int, is_fresh: bool
) -> dict[str, np.ndarray]:
    def fetched(key: str, room: int, check: Callable[[bytes], T]) -> T:
        """Return what `check` makes of an object, which is read twice before it is damaged."""

        def checked_object(again: bool) -> T:
            with _explained(storage, root, digest):
                return check(storage.get(key, most=room, is_fresh=is_fresh or again))

        return read_twice(checked_object)

    with _explained(storage, root, digest):
        stored = _stored_arrays(storage, arrays_path(root, digest), most, fetched)
        arrays: dict[str, np.ndarray] = {}
        for name in list(stored):
            arrays[name] = stored.pop(name).decoded()  # whose frame is let go
        if arrays_digest(arrays) != digest:
            raise ValueError("their digest is another")
        return arrays


@contextmanager
def _explained(storage: Storage, root: str, digest: str) -> Iterator[None]:
    """Turn whatever is raised in the block into the error of damaged arrays."""
    try:
        yield
    except CacheError:
        raise
    except Exception as raised:  # what parses damaged bytes raises what it likes
        raise damaged(storage, root, digest) from raised


def damaged(storage: Storage, root: str, digest: str) -> DamagedError:
    """Return the error of arrays that are absent, or not what was written."""
    path = arrays_path(root, digest)
    way_out = "restore it from a copy"
    if root == SOURCE:
        way_out += f", or delete {storage}/{path} and run the dump again: it writes it anew"
    return DamagedError(f"cache {storage}: {ROOTS[root]} ({path}) is absent or damaged; {way_out}")


class _Stored(NamedTuple):
    """An array as it is stored."""

    frame: bytes
    """Of zstd."""
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    def decoded(self) -> np.ndarray:
        """Return the array.

        Raises:
            ValueError, RuntimeError: bytes that are no such array.
        """
        array = np.empty(self.shape, self.dtype)
        Zstd().decode(self.frame, array)
        return array


def _stored_arrays(storage: Storage, path: str, most: int, fetched: Any) -> dict[str, _Stored]:
    """Return all arrays under a path, of which nothing is decoded yet.

    Only shape and type are taken from a zarr.json: another could name any codec.

    Args:
        storage: of the cache.
        path: of the arrays.
        most: bytes that they may have.
        fetched: returns what a function makes of the bytes of a key, of which there are so many.

    Raises:
        ValueError: more bytes than so few can hold.
    """
    names = [name for name in storage.list(path) if storage.exists(f"{path}/{name}/zarr.json")]
    stored: dict[str, _Stored] = {}
    size = 0
    num_stored = 0
    for name in names[:_MOST_ARRAYS]:
        shape_in = partial(_shape, most=most - size)
        shape, dtype = fetched(f"{path}/{name}/zarr.json", MOST_METADATA, shape_in)
        num_bytes = prod(shape) * dtype.itemsize
        size += num_bytes
        room = num_bytes + num_bytes // 128 + 1024  # what zstd cannot compress takes a little more
        chunk = "/".join(["0"] * len(shape))  # the only one
        frame_in = partial(_frame, num_bytes=num_bytes)
        frame = fetched(f"{path}/{name}/c/{chunk}", room, frame_in)
        num_stored += len(frame)
        stored[name] = _Stored(frame, shape, dtype)
    if size > most_decoded(num_stored):
        raise ValueError(f"{num_stored} bytes that say to hold {size}")
    return stored


def _frame(data: bytes, num_bytes: int) -> bytes:
    """Return the zstd frame in an object, which ends with its crc32c."""
    check_frame(data, num_bytes)
    frame = data[:-_CHECKSUM]
    if crc32c(frame) != int.from_bytes(data[-_CHECKSUM:], "little"):
        raise ValueError("it differs from its checksum (crc32c)")
    return frame


def _shape(data: bytes, most: int) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    document = parsed(data, most_values=MOST_METADATA)
    shape = tuple(document["shape"])
    dtype = np.dtype(_TYPES[document["data_type"]])
    is_shape = all(type(side) is int and side > 0 for side in shape)
    if is_shape and prod(shape) * dtype.itemsize <= most:
        return shape, dtype
    raise ValueError(f"an array of shape {quoted(shape)}")


def num_stored_about(arrays: Mapping[str, np.ndarray]) -> int:
    """Return about how many bytes arrays take once they are stored: the beginning of each tells."""
    total = 0.0
    for array in arrays.values():
        num_values = _SAMPLE // array.dtype.itemsize
        beginning = array.reshape(-1)[:num_values]
        frame = Zstd(_LEVEL).encode(beginning)
        total += len(frame) * array.size / max(beginning.size, 1)
    return int(total)


def _created(store: MemoryStore, path: str, shape: tuple[int, ...], dtype: Any) -> Any:
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        chunks=shape,
        dtype=dtype,
        compressors=[ZstdCodec(level=_LEVEL), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def arrays_path(root: str, digest: str) -> str:
    """Return the path of arrays inside the cache."""
    return f"{root}/{digest[:16]}"
