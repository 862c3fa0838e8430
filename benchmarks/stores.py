"""How logits are kept, as the comparison of peers sees it: what is kept of a view, a store of
views, a reader of it; and kdcache's own store.

Views come in batches in the order in which a store is written: seed after seed, or image after
image with all of its seeds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from workload import make_cache

from kdcache.cache import Slab, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.formats.protocol import StoredSample
from kdcache.codecs import Codec
from kdcache.codecs.record_bytes import to_fields

BATCH = 256
"""Views of a batch, written or read."""
Entries = np.ndarray[Any, Any]
"""What is kept of views, one element a view."""


class ViewBatch(NamedTuple):
    """Views as a teacher gives them: of all `seeds` for each of `rows`."""

    seeds: list[int]
    rows: np.ndarray
    logits: Tensor
    """Float32 `[seeds * rows, classes]`, seed after seed."""


def by_seed(batch: ViewBatch, entries: Entries) -> Entries:
    """Return the entries of a batch as `[seeds, rows]`."""
    return entries.reshape(len(batch.seeds), len(batch.rows), *entries.shape[1:])


class Payload(Protocol):
    """What is kept of a view."""

    def encode(self, logits: Tensor) -> Entries:
        """Return what is kept of `logits`, `[views, classes]`; one element a view."""

    def tensors(self, entries: Entries) -> Any:
        """Return the same as tensors."""

    def probs(self, entries: Entries) -> Tensor:
        """Return probabilities, float32 `[views, classes]`, at temperature 1."""


class Reader(Protocol):
    """Reads one store."""

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        """Return what is kept of some rows under a seed, in their order."""

    def scan(self, seed: int) -> Iterator[Entries]:
        """Yield what is kept under a seed, as it lies."""


class Store(Protocol):
    """A way to keep views."""

    by_image: bool
    """Whether views are written image by image with all of their seeds."""

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        """Write all batches into a new folder."""

    def open(self, folder: Path) -> Reader:
        """Return a reader of what was written."""


class Variant(NamedTuple):
    """A store and what it keeps."""

    store: Store
    payload: Payload


def batches(views: Tensor, *, by_image: bool) -> Iterator[ViewBatch]:
    """Yield the views, `[seeds, rows, classes]`, in the order in which a store is written."""
    num_seeds, num_rows, classes = views.shape
    groups = [list(range(num_seeds))] if by_image else [[seed] for seed in range(num_seeds)]
    for seeds in groups:
        size = BATCH // len(seeds)
        for start in range(0, num_rows, size):
            rows = np.arange(start, min(start + size, num_rows))
            logits = views[seeds[0] : seeds[-1] + 1, start : start + size]
            yield ViewBatch(seeds, rows, logits.reshape(-1, classes))


@dataclass(frozen=True)
class Records:
    """The records of a codec of kdcache."""

    codec: Codec

    def encode(self, logits: Tensor) -> Entries:
        return self.codec.encode(logits)

    def tensors(self, entries: Entries) -> dict[str, Tensor]:
        return to_fields(entries, "cpu")

    def probs(self, entries: Entries) -> Tensor:
        return self.codec.decode(entries).probs(1.0)


@dataclass(frozen=True)
class Kdcache:
    """A cache of kdcache, in zarr shards, or with `tar_seeds` in webdataset tars of so many
    seeds."""

    payload: Records
    rows: int
    tar_seeds: int = 0

    @property
    def by_image(self) -> bool:
        return self.tar_seeds > 0

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        cache = make_cache(folder, self.payload.codec, self.rows, tar_seeds=self.tar_seeds)
        manifest = cache.manifest
        started: set[int] = set()
        for batch in batches:
            first = batch.seeds[0]
            if first not in started:
                start_seed(cache, first)
                started.add(first)
            unit = int(batch.rows[0]) // manifest.unit_rows
            rows = manifest.unit_range(unit)
            if batch.rows[0] == rows.start:
                held = np.empty((len(batch.seeds), len(rows)), manifest.dtype)
            entries = by_seed(batch, self.payload.encode(batch.logits))
            held[:, batch.rows - rows.start] = entries
            if batch.rows[-1] + 1 == rows.stop:
                samples = [StoredSample(f"{row:08d}") for row in rows] if self.tar_seeds else []
                commit_unit(cache, first, unit, held, samples)

    def open(self, folder: Path) -> "KdcacheReader":
        return KdcacheReader(folder)


class KdcacheReader:
    """Random rows come from the slab of their seed, whole passes from the units themselves."""

    def __init__(self, folder: Path) -> None:
        self._cache = open_cache(folder)
        self._slabs: dict[int, Slab] = {}

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        if seed not in self._slabs:
            self._slabs[seed] = self._cache.slab(seed, is_partial=True)
        return self._slabs[seed].gather(rows)

    def scan(self, seed: int) -> Iterator[Entries]:
        for commit in self._cache.commits(seed):
            records = self._cache.read_unit(commit)
            for start in range(0, len(records), BATCH):
                yield records[start : start + BATCH]

    def forget(self) -> None:
        """Remove the slabs, so that the next read makes them anew."""
        self._slabs.clear()
        for path in self._cache.slabs.path.glob("*.slab"):
            path.unlink()
