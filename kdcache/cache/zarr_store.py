"""A unit of records <-> the bytes of one zarr shard, encoded in memory.

zarr's own stores are not written to: they neither sync nor refuse to replace. The bytes go through `Folder.publish`.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from kdcache.cache.manifest import Manifest
from kdcache.shapes import Records

_LOCK = threading.Lock()


def seed_path(seed: int) -> str:
    """Return the path of a seed's record array inside the cache."""
    return f"seeds/{seed:05d}/records"


def object_key(seed: int, unit: int) -> str:
    """Return the key of the object that holds one unit."""
    return f"{seed_path(seed)}/c/{unit}/0"


@dataclass(frozen=True)
class UnitFormat:
    """Shape and chunking of a seed's array, as the manifest gives them."""

    rows: int
    unit_rows: int
    chunk_rows: int
    dtype: "np.dtype[Any]"
    chunk_bytes: int
    """Bytes of each record in a chunk; chunks with few have a Huffman table for each few, which suits records of many laws."""
    zstd_level: int

    @classmethod
    def of(cls, manifest: Manifest) -> "UnitFormat":
        """Return the format of a cache."""
        own = (manifest.rows, manifest.unit_rows, manifest.chunk_rows, manifest.dtype)
        return cls(*own, manifest.chunk_bytes or manifest.dtype.itemsize, manifest.zstd_level)

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and bytes of a chunk."""
        return self.chunk_rows, self.chunk_bytes

    @property
    def shards(self) -> tuple[int, int]:
        """Rows and bytes of a shard: whole chunks, so that the last ones of a row may reach past its end."""
        return self.unit_rows, -(-self.dtype.itemsize // self.chunk_bytes) * self.chunk_bytes

    def metadata(self, seed: int) -> dict[str, bytes]:
        """Return the zarr.json objects of a seed's array and of the groups above it but the root."""
        store = MemoryStore()
        self._create(store, seed_path(seed))
        return {key: data for key, data in contents(store).items() if key != "zarr.json"}

    def check_array(self, cache: Path, seed: int) -> None:
        """Check that plain zarr finds the array of `seed` in the folder `cache`, with this shape and chunking.

        Raises:
            ValueError: it does not.
        """
        try:
            array = zarr.open_array(str(cache / seed_path(seed)), mode="r")
        except Exception as error:  # zarr raises what it likes on a damaged file
            raise ValueError(f"zarr cannot open its array: {' '.join(str(error).split())[:160]}") from error
        wanted = (self.rows, self.dtype.itemsize), self.shards, self.chunks, np.dtype("uint8")
        if (array.shape, array.shards, array.chunks, array.dtype) != wanted:
            raise ValueError(f"its array has shape {array.shape}, shards {array.shards}, chunks {array.chunks}, not {wanted}")

    def encode(self, unit: int, records: Records) -> bytes:
        """Return the bytes of the object that holds `records`, the rows of `unit`."""
        start = unit * self.unit_rows
        raw = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), self.dtype.itemsize)
        key = f"{seed_path(0)}/c/{unit}/0"
        with _LOCK:
            self._scratch[start : start + len(records)] = raw
            data = _get(self._store, key)
            sync(self._store.delete(key))
        return data

    def decode(self, unit: int, data: bytes) -> Records:
        """Return the records in the object of `unit`.

        Raises:
            ValueError: bytes that are no such object; zarr's checksums (crc32c of every chunk and of the index) are checked.
        """
        if not data:
            raise ValueError("it is empty")  # which zarr reads as zeros
        start, stop = unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.rows)
        key = f"{seed_path(0)}/c/{unit}/0"
        with _LOCK:  # equal units of two seeds have one key here: another thread would read this one's bytes
            try:
                sync(self._store.set(key, default_buffer_prototype().buffer.from_bytes(data)))
                raw = np.ascontiguousarray(self._scratch[start:stop])
            except Exception as error:  # zarr, numcodecs and zstd raise what they like on damaged bytes
                raise ValueError(f"zarr cannot decode it: {error}") from error
            finally:
                sync(self._store.delete(key))
        return raw.view(self.dtype).reshape(stop - start)

    @cached_property
    def _store(self) -> MemoryStore:
        return MemoryStore()

    @cached_property
    def _scratch(self) -> Any:
        return self._create(self._store, seed_path(0))

    def _create(self, store: MemoryStore, path: str) -> Any:
        return zarr.create_array(
            store,
            name=path,
            shape=(self.rows, self.dtype.itemsize),
            shards=self.shards,
            chunks=self.chunks,
            dtype="uint8",
            fill_value=0,
            filters=[TransposeCodec(order=(1, 0))],  # equal fields side by side compress better
            serializer=BytesCodec(),
            # zarr checksums a shard's index only: without crc32c a flipped bit in a chunk comes back as data
            compressors=[ZstdCodec(level=self.zstd_level), Crc32cCodec()],
            config={"write_empty_chunks": True},  # else a unit of zeros would be no object at all
        )


def root_metadata(manifest: Manifest) -> bytes:
    """Return the root group's zarr.json, which carries the manifest as attribute `kdcache`."""
    store = MemoryStore()
    zarr.create_group(store, attributes={"kdcache": manifest.to_json()})
    return _get(store, "zarr.json")


def contents(store: MemoryStore) -> dict[str, bytes]:
    """Return every object of a store in memory."""
    return {key: _get(store, key) for key in store._store_dict}


def store_contents(objects: Mapping[str, bytes]) -> MemoryStore:
    """Return a store in memory that holds `objects`."""
    make = default_buffer_prototype().buffer.from_bytes
    return MemoryStore({key: make(data) for key, data in objects.items()})


def _get(store: MemoryStore, key: str) -> bytes:
    buffer = sync(store.get(key, default_buffer_prototype()))
    assert buffer is not None, key
    return buffer.to_bytes()
