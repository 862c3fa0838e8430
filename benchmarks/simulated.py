"""Large caches that take no room: manifests and commits are real, objects of units are one unit's
under every unit's name, as hard links."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from workload import make_cache

from kdcache.cache import Cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import Commit, commit_key
from kdcache.cache.documents.parts import Probe
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.protocol import Entry
from kdcache.codecs import open_codec

PAGE = 1000
"""Entries that a bucket lists in one request."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a cache is."""

    rows: int
    seeds: int
    classes: int = 1000
    unit_rows: int = 65_536
    workers: int = 1
    """That took turns at writing its units."""


class Counted(Folder):
    """A folder that counts what a bucket would be asked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.requests: Counter[str] = Counter()

    def get(self, key: str, **limits: int) -> bytes:
        self.requests["commits" if key.startswith("commits/") else "objects"] += 1
        return super().get(key, **limits)

    def exists(self, key: str) -> bool:
        self.requests["heads"] += 1
        return super().exists(key)

    def list(self, prefix: str) -> Iterator[str]:
        names = [*super().list(prefix)]
        self.requests["lists"] += max(-(-len(names) // PAGE), 1)
        return iter(names)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        entries = [*super().walk(prefix)]
        self.requests["lists"] += max(-(-len(entries) // PAGE), 1)
        return iter(entries)


def open_counted(path: Path) -> tuple[Cache, "Counter[str]"]:
    """Return a cache that was just opened, and what it asks of its storage."""
    folder = Counted(path)
    cache = Cache(folder, open_cache(path).manifest)
    folder.requests["objects"] += 1  # the manifest
    return cache, folder.requests


def simulate(folder: Path, size: Size) -> Path:
    """Make a cache of that size with commits and names, but hardly any records."""
    codec = open_codec("topk:k=10", classes=size.classes)
    cache = make_cache(folder, codec, size.rows, unit_rows=size.unit_rows)
    start_seed(cache, 0)
    records = np.zeros(len(cache.manifest.unit_range(0)), codec.record_dtype)
    records["classes"] = np.arange(10)
    first = commit_unit(cache, 0, 0, records, probes=_probes(cache, 0), statistics={"mean": 0.0})
    for seed in range(size.seeds):
        for key, data in cache.format.metadata(seed).items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
        (folder / commit_key(seed, 0)).parent.mkdir(parents=True, exist_ok=True)
        for unit in range(cache.manifest.num_units):
            worker = (seed * cache.manifest.num_units + unit) % size.workers
            _commit(cache, folder, first, (seed, unit), worker)
    return folder


def _commit(cache: Cache, folder: Path, first: Commit, place: Unit, worker: int) -> None:
    """Write the commit of a unit whose object is that of the first one."""
    seed, unit = place
    span = cache.manifest.unit_range(unit)
    commit = replace(
        first,
        seed=seed,
        unit=unit,
        start=span.start,
        stop=span.stop,
        key=cache.format.key(seed, unit),
        probes=_probes(cache, unit),
        writer=f"node{worker // 8}:{1000 + worker}:{worker:08x}:{worker}",
    )
    (folder / commit_key(seed, unit)).write_bytes(commit.to_bytes())
    if commit.key != first.key:
        (folder / commit.key).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / first.key, folder / commit.key)


def _probes(cache: Cache, unit: int) -> list[Probe]:
    """Return probes of the size of real ones, of the first rows of a unit."""
    probe = Probe(row=0, crc32=0, thumbnail="A" * 256, steps=[("decode", 0)] * 4)
    return [replace(probe, row=row) for row in cache.manifest.unit_range(unit)[:4]]
