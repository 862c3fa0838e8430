"""Small caches that several tests share, filled without a teacher."""

from pathlib import Path
from typing import Any

import torch

from kdcache.cache import Cache, Manifest, create_cache, record_layout
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.parts import (
    MadeBy,
    Part,
    RecipeEntry,
    SamplesEntry,
    SourceEntry,
    TeacherEntry,
    ViewsEntry,
)
from kdcache.cache.storage.protocol import Entry, Storage, is_temporary
from kdcache.codecs import Codec, open_codec
from kdcache.shapes import Records

PATTERNS = (0x01, 0x80, 0xFF)


PARTS: dict[str, type[Part]] = {
    "source": SourceEntry,
    "recipe": RecipeEntry,
    "teacher": TeacherEntry,
    "samples": SamplesEntry,
    "views": ViewsEntry,
    "made_by": MadeBy,
}


def manifest(
    codec: str | Codec = "full:dtype=float16", classes: int = 5, **changes: Any
) -> Manifest:
    """Return a manifest, of which `changes` may give tables as its JSON says them."""
    opened = open_codec(codec, classes=classes) if isinstance(codec, str) else codec
    settings: dict[str, Any] = {
        "task": "classification",
        "classes": classes,
        "rows": 20,
        "source": {"spec": "noise", "fingerprint": "0" * 64},
        "order_seed": 0,
        "recipe": {
            "name": "none",
            "fingerprint": "1" * 64,
            "table": {"mode": "L", "size": 8, "eval": "eval", "transforms": []},
        },
        "teacher": {
            "spec": "random",
            "sha256": "2" * 64,
            "size": 8,
            "mean": [0.5],
            "std": [0.5],
            "precision": "float32",
        },
        **record_layout(opened, 20),
        "unit_rows": 8,
        "chunk_rows": 4,
        "skip_unreadable": False,
        "made_by": {},
    }
    settings |= changes
    tables = {
        name: part.from_json(settings[name])
        for name, part in PARTS.items()
        if isinstance(settings.get(name), dict)
    }
    return Manifest(**{**settings, **tables})


def records(cache: Cache, seed: int, unit: int, writer: int = 0) -> Records:
    """Return the records that `writer` computes for a unit; two writers' records are never
    equal."""
    generator = torch.Generator().manual_seed(1000 * writer + 100 * seed + unit)
    rows = len(cache.manifest.unit_range(unit))
    return cache.codec.encode(torch.randn(rows, cache.manifest.classes, generator=generator))


def fill(path: Path | str, *seeds: int, **changes: Any) -> Cache:
    cache = create_cache(path, manifest(**changes))
    for seed in seeds:
        start_seed(cache, seed)
        for unit in range(cache.manifest.num_units):
            commit_unit(cache, seed, unit, records(cache, seed, unit))
    return cache


def flipped(data: bytes, position: int, pattern: int) -> bytes:
    return data[:position] + bytes([data[position] ^ pattern]) + data[position + 1 :]


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of change of every file under `path`."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files
    }


def temporaries(storage: Storage) -> list[Entry]:
    """Return the temporary files that killed writers left; a bucket has none."""
    return [entry for entry in storage.walk() if is_temporary(entry.key)]
