"""A unit of records <-> the bytes of one zarr shard, encoded in memory.

zarr's own stores are not written to: they neither sync nor refuse to replace. The bytes go through
`Folder.publish`.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from kdcache.cache.documents.document import parsed
from kdcache.cache.documents.manifest import Manifest
from kdcache.cache.formats.protocol import Bytes, StoredSample, named_unit
from kdcache.cache.formats.shard import most_shard, read_shard
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.errors import CacheError, DamagedError, quoted
from kdcache.shapes import Records

MOST_METADATA = 1 << 16
"""Bytes of the zarr.json of an array, and its values."""
_LOCK = threading.Lock()


def seed_path(seed: int) -> str:
    """Return the path of a seed's record array inside the cache."""
    return f"seeds/{seed:05d}/records"


def object_key(seed: int, unit: int) -> str:
    """Return the key of the object that holds one unit."""
    return f"{seed_path(seed)}/c/{unit}/0"


@dataclass(frozen=True)
class ZarrFormat:
    """Shape and chunking of a seed's array, as the manifest gives them."""

    rows: int
    unit_rows: int
    chunk_rows: int
    dtype: "np.dtype[Any]"
    chunk_bytes: int
    """Bytes of each record in a chunk; chunks with few have a Huffman table for each few, which
    suits records of many laws."""
    zstd_level: int

    @classmethod
    def of(cls, manifest: Manifest) -> "ZarrFormat":
        """Return the format of a cache."""
        return cls(
            rows=manifest.rows,
            unit_rows=manifest.unit_rows,
            chunk_rows=manifest.chunk_rows,
            dtype=manifest.dtype,
            chunk_bytes=manifest.chunk_bytes or manifest.dtype.itemsize,
            zstd_level=manifest.zstd_level,
        )

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and bytes of a chunk."""
        return self.chunk_rows, self.chunk_bytes

    @property
    def shards(self) -> tuple[int, int]:
        """Rows and bytes of a shard: whole chunks, so that the last ones of a row may reach past
        its end."""
        num_columns = -(-self.dtype.itemsize // self.chunk_bytes)
        return self.unit_rows, num_columns * self.chunk_bytes

    def key(self, seed: int, unit: int) -> str:
        """Return the key of the shard that holds one unit."""
        return object_key(seed, unit)

    def unit_of(self, key: str) -> tuple[int, int] | None:
        """Return the seed and the number of the unit whose shard has this key; None of other
        keys."""
        return named_unit(key, r"seeds/([0-9]{5,10})/records/c/([0-9]{1,10})/0", object_key)

    def most_bytes(self, unit: int) -> int:
        """Return the bytes of a shard whose chunks cannot be compressed."""
        rows, width = self.shards
        num_columns = width // self.chunk_bytes
        num_chunks = rows // self.chunk_rows * num_columns
        return most_shard(num_chunks, self.chunk_rows * self.chunk_bytes)

    def bytes_per_record(self, records: Records) -> float:
        """Return the bytes that each of some records takes in a unit, in whole chunks; of fewer
        than one has, in a chunk of all of them: what is left empty would count as theirs."""
        chunk_rows = min(self.chunk_rows, len(records))
        rows = len(records) // chunk_rows * chunk_rows
        unit_format = replace(self, rows=rows, unit_rows=rows, chunk_rows=chunk_rows)
        return len(unit_format.encode(0, records[:rows])) / rows

    def metadata(self, seed: int) -> dict[str, bytes]:
        """Return the zarr.json objects of a seed's array and of the groups above it but the
        root."""
        first = str(PurePosixPath(seed_path(0)).parent)
        own = str(PurePosixPath(seed_path(seed)).parent)
        return {key.replace(first, own): data for key, data in self._metadata_of_first.items()}

    def faults(self, storage: Storage, seed: int) -> list[str]:
        """Return what keeps plain zarr from finding the array of `seed`, with this shape and
        chunking."""
        group = PurePosixPath(seed_path(seed)).parent
        try:
            check_group(storage, str(group))
            read_twice(lambda is_fresh: self._check_array(storage, seed, is_fresh))
        except CacheError as error:
            return [str(error)]
        return []

    def _check_array(self, storage: Storage, seed: int, is_fresh: bool) -> None:
        """Raise a DamagedError if plain zarr does not find the array of `seed` as it should be."""
        key = f"{seed_path(seed)}/zarr.json"
        try:
            data = storage.get(key, most=MOST_METADATA, is_fresh=is_fresh)
            parsed(data, most_values=MOST_METADATA)  # zarr itself would go as deep as it goes
            store = store_contents({key: data})
            array = zarr.open_array(store, path=seed_path(seed), mode="r")
            form = (array.shape, array.shards, array.chunks, array.dtype)
        except CacheError:
            raise
        except Exception as error:  # zarr raises what it likes on a damaged file
            reason = " ".join(str(error).split())[:160]
            raise DamagedError(
                f"zarr cannot open its array: {reason}; {_anew(storage, key)}"
            ) from error
        shape = (self.rows, self.dtype.itemsize)
        own_form = (shape, self.shards, self.chunks, np.dtype("uint8"))
        if form != own_form:
            raise DamagedError(
                f"its array has shape {quoted(array.shape)}, shards {quoted(array.shards)}, chunks"
                f" {quoted(array.chunks)}, not {own_form}; {_anew(storage, key)}"
            )

    def encode(self, unit: int, records: Records, samples: Sequence[StoredSample] = ()) -> bytes:
        """Return the shard of `records`, `[1, rows]`; it holds no samples."""
        start = unit * self.unit_rows
        raw = np.ascontiguousarray(records).view(np.uint8)
        rows = raw.reshape(-1, self.dtype.itemsize)
        stop = start + len(rows)
        key = self.key(0, unit)
        with _LOCK:
            self._scratch[start:stop] = rows
            data = _get(self._store, key)
            sync(self._store.delete(key))
        return data

    def samples(self, unit: int, data: bytes) -> list[StoredSample]:
        """Return nothing: shards hold no samples."""
        return []

    def decode(self, unit: int, data: bytes, out: Bytes) -> None:
        """Write the records in the shard of `unit` into `out`, uint8 `[1, rows, bytes of a
        record]`.

        Raises:
            ValueError: bytes that are no such object, or differ from its checksums (crc32c of every
                chunk and of the index).
        """
        if len(out) != 1:
            raise ValueError(f"a shard holds the records of one seed, not of {len(out)}")
        read_shard(data, out[0], shard=self.shards, chunk=self.chunks)

    @cached_property
    def _metadata_of_first(self) -> dict[str, bytes]:
        """The objects of seed 0; those of others are the same under other keys."""
        store = MemoryStore()
        self._create(store, seed_path(0))
        objects = contents(store)
        objects.pop("zarr.json", None)
        return objects

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
            # zarr checksums a shard's index only: without crc32c a flipped bit in a chunk comes
            # back as data
            compressors=[ZstdCodec(level=self.zstd_level), Crc32cCodec()],
            config={"write_empty_chunks": True},  # else a unit of zeros would be no object at all
        )


def check_group(storage: Storage, path: str) -> None:
    """Check that plain zarr can go through a group: its document, if it is there, is one.

    Raises:
        DamagedError: it is none.
    """
    key = f"{path}/zarr.json"

    def check(is_fresh: bool) -> None:
        try:
            data = storage.get(key, most=MOST_METADATA, is_fresh=is_fresh)
            group = parsed(data, most_values=MOST_METADATA)
            kind = (group["zarr_format"], group["node_type"])
            if kind != (3, "group"):
                raise ValueError("it is no group of format 3")
        except FileNotFoundError:  # an array is found without
            return
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(
                f"{key} is damaged: {error}; delete {storage}/{key}: arrays are found without it"
            ) from error

    read_twice(check)


def _anew(storage: Storage, key: str) -> str:
    return f"delete {storage}/{key} and run the dump again: it writes this file anew"


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
    buffer_type = default_buffer_prototype().buffer
    buffers = {key: buffer_type.from_bytes(data) for key, data in objects.items()}
    return MemoryStore(buffers)


def put(store: MemoryStore, key: str, data: bytes) -> None:
    """Store `data` as `key` in memory."""
    buffer = default_buffer_prototype().buffer.from_bytes(data)
    sync(store.set(key, buffer))


def _get(store: MemoryStore, key: str) -> bytes:
    buffer = sync(store.get(key, default_buffer_prototype()))
    assert buffer is not None, key
    return buffer.to_bytes()
