"""Ways in which other projects keep a teacher's logits, from their published formats."""

import io
import os
import pickle
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from stores import BATCH, Entries, ViewBatch, by_seed
from torch import Tensor

GROUP = 1024
"""Rows of a row group of parquet."""


@dataclass(frozen=True)
class TopK:
    """The `k` largest probabilities in float16 with int16 indices; the rest is spread evenly."""

    k: int
    classes: int

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype([("index", "<i2", (self.k,)), ("prob", "<f2", (self.k,))])

    def encode(self, logits: Tensor) -> Entries:
        largest = torch.softmax(logits, 1).topk(self.k)
        entries = np.empty(len(logits), self.dtype)
        entries["index"] = largest.indices.numpy()
        entries["prob"] = largest.values.numpy()
        return entries

    def tensors(self, entries: Entries) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(np.ascontiguousarray(entries["index"]))
        return index, torch.from_numpy(np.ascontiguousarray(entries["prob"]))

    def probs(self, entries: Entries) -> Tensor:
        index, prob = self.tensors(entries)
        kept = prob.float()
        tail = (1 - kept.sum(1, keepdim=True)) / (self.classes - self.k)
        return tail.repeat(1, self.classes).scatter_(1, index.long(), kept)


@dataclass(frozen=True)
class Full:
    """All logits in float16."""

    classes: int

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype(("<f2", (self.classes,)))

    def encode(self, logits: Tensor) -> Entries:
        return logits.half().numpy()

    def tensors(self, entries: Entries) -> Tensor:
        return torch.from_numpy(entries)

    def probs(self, entries: Entries) -> Tensor:
        return torch.softmax(self.tensors(entries).float(), 1)


@dataclass(frozen=True)
class Pickles:
    """A pickle per image with all of its views (FKD, ml-dr)."""

    payload: TopK
    by_image = True

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        folder.mkdir()
        for batch in batches:
            entries = by_seed(batch, self.payload.encode(batch.logits))
            for place, row in enumerate(batch.rows.tolist()):
                of_image = entries[:, place]
                content = {"index": of_image["index"].copy(), "prob": of_image["prob"].copy()}
                (folder / f"{row:08d}.pkl").write_bytes(pickle.dumps(content))

    def open(self, folder: Path) -> "PickleReader":
        return PickleReader(folder, self.payload.dtype)


@dataclass(frozen=True)
class PickleReader:
    folder: Path
    dtype: "np.dtype[Any]"

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        files = [self.folder / f"{row:08d}.pkl" for row in rows.tolist()]
        return self._entries(files, seed)

    def scan(self, seed: int) -> Iterator[Entries]:
        files = sorted(self.folder.iterdir())
        for start in range(0, len(files), BATCH):
            yield self._entries(files[start : start + BATCH], seed)

    def _entries(self, files: list[Path], seed: int) -> Entries:
        entries = np.empty(len(files), self.dtype)
        for place, file in enumerate(files):
            content = pickle.loads(file.read_bytes())  # noqa: S301 (as these formats are read)
            entries["index"][place] = content["index"][seed]
            entries["prob"][place] = content["prob"][seed]
        return entries


@dataclass(frozen=True)
class RawFile:
    """Entries of one size in a file for each seed, read by offset, and a list of keys (TinyViT)."""

    payload: TopK
    by_image = False

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype([("seed", "<i4"), ("entry", self.payload.dtype)])

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        folder.mkdir()
        for seed, of_seed in groupby(batches, lambda batch: batch.seeds[0]):
            values = (folder / f"{seed:05d}.bin").open("wb")
            keys = (folder / f"{seed:05d}.keys").open("w")
            with values, keys:
                for batch in of_seed:
                    entries = np.empty(len(batch.rows), self.dtype)
                    entries["seed"] = batch.rows  # a random number in TinyViT, of the same size
                    entries["entry"] = self.payload.encode(batch.logits)
                    values.write(entries.tobytes())
                    keys.writelines(f"{row:08d}\n" for row in batch.rows.tolist())

    def open(self, folder: Path) -> "RawReader":
        return RawReader(folder, self.dtype)


class RawReader:
    def __init__(self, folder: Path, dtype: "np.dtype[Any]") -> None:
        self._folder = folder
        self._dtype = dtype
        self._open: dict[int, tuple[int, dict[int, int]]] = {}

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        descriptor, offsets = self._of(seed)
        width = self._dtype.itemsize
        parts = [os.pread(descriptor, width, offsets[row]) for row in rows.tolist()]
        return self._entries(b"".join(parts), len(rows))

    def scan(self, seed: int) -> Iterator[Entries]:
        descriptor, offsets = self._of(seed)
        width = self._dtype.itemsize
        for start in range(0, len(offsets), BATCH):
            count = min(BATCH, len(offsets) - start)
            yield self._entries(os.pread(descriptor, width * count, width * start), count)

    def _entries(self, data: bytes, count: int) -> Entries:
        return np.frombuffer(data, self._dtype, count)["entry"]

    def _of(self, seed: int) -> tuple[int, dict[int, int]]:
        if seed not in self._open:
            keys = (self._folder / f"{seed:05d}.keys").read_text().split()
            offsets = {int(key): place * self._dtype.itemsize for place, key in enumerate(keys)}
            descriptor = os.open(self._folder / f"{seed:05d}.bin", os.O_RDONLY)
            self._open[seed] = descriptor, offsets
        return self._open[seed]

    def __del__(self) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)


@dataclass(frozen=True)
class BatchFiles:
    """A file for each batch with its tensor (SRe2L)."""

    payload: Full
    by_image = False

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        for batch in batches:
            (seed,) = batch.seeds
            path = folder / f"{seed:05d}" / f"{batch.rows[0] // BATCH:06d}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.from_numpy(self.payload.encode(batch.logits)), path)

    def open(self, folder: Path) -> "BatchReader":
        return BatchReader(folder, self.payload.classes)


@dataclass(frozen=True)
class BatchReader:
    folder: Path
    classes: int

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        entries = np.empty((len(rows), self.classes), "<f2")
        batches = rows // BATCH
        for number in np.unique(batches).tolist():
            is_of_batch = batches == number
            of_batch = self._load(self.folder / f"{seed:05d}" / f"{number:06d}.pt")
            entries[is_of_batch] = of_batch[rows[is_of_batch] % BATCH]
        return entries

    def scan(self, seed: int) -> Iterator[Entries]:
        for path in sorted((self.folder / f"{seed:05d}").iterdir()):
            yield self._load(path)

    @staticmethod
    def _load(path: Path) -> Entries:
        loaded: Tensor = torch.load(path, weights_only=True)
        return loaded.numpy()


@dataclass(frozen=True)
class Parquet:
    """A parquet file for each seed: columns of indices and of probabilities, as bytes, zstd."""

    payload: TopK
    by_image = False

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        folder.mkdir()
        held: list[Entries] = []
        options = {"compression": "zstd", "use_dictionary": False}
        for seed, of_seed in groupby(batches, lambda batch: batch.seeds[0]):
            path = folder / f"{seed:05d}.parquet"
            with pq.ParquetWriter(path, self._schema, **options) as writer:
                for batch in of_seed:
                    held.append(self.payload.encode(batch.logits))
                    if sum(map(len, held)) >= GROUP:
                        self._flush(writer, held)
                self._flush(writer, held)

    @cached_property
    def _schema(self) -> pa.Schema:
        width = pa.binary(2 * self.payload.k)
        return pa.schema([("index", width), ("prob", width)])

    def _flush(self, writer: pq.ParquetWriter, held: list[Entries]) -> None:
        if not held:
            return
        entries = np.concatenate(held)
        held.clear()
        columns = []
        for name in ("index", "prob"):
            values = np.ascontiguousarray(entries[name])
            buffers = [None, pa.py_buffer(values)]
            columns.append(
                pa.Array.from_buffers(self._schema.field(name).type, len(values), buffers)
            )
        writer.write_table(pa.table(columns, schema=self._schema))

    def open(self, folder: Path) -> "ParquetReader":
        return ParquetReader(folder, self.payload.dtype)


class ParquetReader:
    def __init__(self, folder: Path, dtype: "np.dtype[Any]") -> None:
        self._folder = folder
        self._dtype = dtype
        self._files: dict[int, pq.ParquetFile] = {}

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        entries = np.empty(len(rows), self._dtype)
        groups = rows // GROUP
        for number in np.unique(groups).tolist():
            is_of_group = groups == number
            entries[is_of_group] = self._group(seed, number)[rows[is_of_group] % GROUP]
        return entries

    def scan(self, seed: int) -> Iterator[Entries]:
        for number in range(self._file(seed).num_row_groups):
            yield self._group(seed, number)

    def _group(self, seed: int, number: int) -> Entries:
        table = self._file(seed).read_row_group(number)
        entries = np.empty(len(table), self._dtype)
        for name in ("index", "prob"):
            column = table.column(name).combine_chunks()
            values = np.frombuffer(column.buffers()[1], self._dtype[name].base)
            entries[name] = values.reshape(len(table), -1)
        return entries

    def _file(self, seed: int) -> pq.ParquetFile:
        if seed not in self._files:
            self._files[seed] = pq.ParquetFile(self._folder / f"{seed:05d}.parquet")
        return self._files[seed]


@dataclass(frozen=True)
class Tar:
    """A tar with a member for each image, which has all of its views (webdataset)."""

    payload: TopK
    by_image = True

    def write(self, folder: Path, batches: Iterable[ViewBatch]) -> None:
        folder.mkdir()
        with tarfile.open(folder / "views.tar", "w") as tar:
            for batch in batches:
                entries = by_seed(batch, self.payload.encode(batch.logits))
                for place, row in enumerate(batch.rows.tolist()):
                    data = entries[:, place].tobytes()
                    member = tarfile.TarInfo(f"{row:08d}.bin")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    def open(self, folder: Path) -> "TarReader":
        return TarReader(folder / "views.tar", self.payload.dtype)


class TarReader:
    def __init__(self, path: Path, dtype: "np.dtype[Any]") -> None:
        self._path = path
        self._dtype = dtype

    @cached_property
    def _members(self) -> dict[int, tarfile.TarInfo]:
        """All members by row: tars have no index, so this reads every header."""
        with tarfile.open(self._path) as tar:
            return {int(member.name[:8]): member for member in tar}

    @cached_property
    def _file(self) -> Any:
        return self._path.open("rb", buffering=0)

    def read(self, rows: np.ndarray, seed: int) -> Entries:
        width = self._dtype.itemsize
        descriptor = self._file.fileno()
        parts = []
        for row in rows.tolist():
            start = self._members[row].offset_data + seed * width
            parts.append(os.pread(descriptor, width, start))
        return np.frombuffer(b"".join(parts), self._dtype, len(rows))

    def scan(self, seed: int) -> Iterator[Entries]:
        held: list[Entries] = []
        with tarfile.open(self._path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                held.append(np.frombuffer(file.read(), self._dtype)[seed : seed + 1])
                if len(held) == BATCH:
                    yield np.concatenate(held)
                    held.clear()
        if held:
            yield np.concatenate(held)
