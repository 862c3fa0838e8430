"""Caches as an attacker makes them: honest ones, forged. Digests and checksums are made anew, for
anyone can compute them."""

import hashlib
import itertools
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from caches import fill as fill_zarr
from caches import manifest
from numcodecs.zstd import Zstd

from kdcache.cache import Cache, create_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.document import with_digest
from kdcache.cache.formats.protocol import StoredSample
from kdcache.codecs import open_codec, with_layout
from kdcache.positions import layout_of_sites

HUGE = 10**18
BOMB_BYTES = 1 << 28
STORE: dict[str, Any] = {
    "store": "webdataset",
    "seeds_per_unit": 2,
    "has_images": True,
    "chunk_rows": 8,
    "classes": 5,
}
SOURCE = {"spec": "noise", "fingerprint": "0" * 64, "classes": 5}
Attack = Callable[[Path], None]
ATTACKS: dict[str, tuple[Attack, str]] = {}
"""By name: what turns a folder into a hostile cache, and what the one line says of it."""


def attack(message: str) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__] = function, message
        return function

    return register


def many(message: str, cases: dict[str, Any], make: Callable[[Any], Attack]) -> None:
    ATTACKS.update({name: (make(case), message) for name, case in cases.items()})


def zarr(path: Path, codec: str = "full:dtype=float16", **changes: Any) -> Cache:
    return fill_zarr(path, 0, codec=codec, **changes)


def lowrank(path: Path) -> Cache:
    generator = torch.Generator().manual_seed(0)
    codec = open_codec("lowrank:step=0.5", classes=5).fit(
        torch.randn(60, 5, generator=generator) * torch.tensor([9.0, 4, 2, 1, 1])
    )
    return create_cache(path, manifest(codec), codec.fit_arrays())


def cosine(path: Path) -> Cache:
    """Return a cache of maps whose records are those of whole maps."""
    fields = maps([1, 2, 3])
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    codec = with_layout(open_codec("cosine", classes=5).fit(rows), fields["layout"])
    cache = create_cache(path, manifest(codec, **fields), codec.fit_arrays())
    for unit in range(cache.manifest.num_units):
        num_rows = len(cache.manifest.unit_range(unit))
        start_seed(cache, 0)
        commit_unit(cache, 0, unit, codec.encode(torch.ones(num_rows, 1, 2, 3, 5)))
    return cache


def tars(path: Path, **changes: Any) -> Cache:
    cache = create_cache(path, manifest(source=SOURCE, **{**STORE, **changes}))
    for unit in range(cache.manifest.num_units):
        rows = cache.manifest.unit_range(unit)
        samples = [StoredSample(f"a/{row}", "png", b"image", b"1") for row in rows]
        commit_unit(cache, 0, unit, np.zeros((2, len(rows)), cache.manifest.dtype), samples)
    return cache


def maps(sites: list[int]) -> dict[str, Any]:
    """Return what the manifest of a cache of maps has of its own."""
    teacher = {
        "spec": "random",
        "sha256": "2" * 64,
        "size": 8,
        "stride": 2,
        "mean": [0.5],
        "std": [0.5],
    }
    teacher["precision"] = "float32"
    return {"task": "segmentation", "layout": layout_of_sites(sites), "teacher": teacher}


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    root = json.loads((path / "zarr.json").read_text())
    document = {
        name: value for name, value in root["attributes"]["kdcache"].items() if name != "digest"
    }
    change(document)
    root["attributes"]["kdcache"] = with_digest(document)
    (path / "zarr.json").write_text(json.dumps(root))


def change_commit(path: Path, unit: int = 0, **changes: Any) -> None:
    key = path / commit_key(0, unit)
    document = {
        name: value for name, value in json.loads(key.read_text()).items() if name != "digest"
    }
    key.write_text(json.dumps(with_digest({**document, **changes})))


def change_object(path: Path, data: bytes, unit: int = 0) -> None:
    """Put other bytes in the place of a unit's object, and say so in its commit."""
    key = json.loads((path / commit_key(0, unit)).read_text())["key"]
    (path / key).write_bytes(data)
    change_commit(path, unit, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def shard(chunks: list[bytes], index: list[tuple[int, int]] | None = None) -> bytes:
    """Return a shard with these chunks, and an index that says what it should or anything else."""
    body = b"".join(chunks)
    ends = np.cumsum([0, *map(len, chunks)]).tolist()
    index = index or [(start, stop - start) for start, stop in itertools.pairwise(ends)]
    table = np.array(index, "<u8").tobytes()
    return body + table + crc(table)


def crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


@cache
def bomb() -> bytes:
    """Return a chunk of a few kB that says to hold 256 MB, and does."""
    return chunk(bytes(BOMB_BYTES))


def chunk(raw: bytes) -> bytes:
    return summed(bytes(Zstd(level=3).encode(raw)))


def summed(frame: bytes) -> bytes:
    return frame + crc(frame)


def without_size(size: int) -> bytes:
    """Return a chunk of about so many zeros whose zstd frame does not say how many: blocks of one
    byte repeated."""
    sizes = [(1 << 17) - 1] * (size >> 17) or [size]
    last = len(sizes) - 1
    body = b"".join(
        (size << 3 | 1 << 1 | (at == last)).to_bytes(3, "little") + b"\0"
        for at, size in enumerate(sizes)
    )
    return summed(
        b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x38" + body
    )  # no content size, a window of 128 kB


def evil(folder: Path) -> bytes:
    return pickle.dumps(Evil(str(folder / "owned")))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")  # what a pickle may call
