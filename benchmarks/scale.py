"""What opening a very large cache costs, in requests and seconds, and how that grows with rows,
seeds and units.

    python benchmarks/scale.py [--json]

Manifests and commits are real. Objects of units are thin: one unit's, under every unit's name, as
hard links. Requests are counted at the cache's objects, as a bucket would be asked; seconds are
those of a local folder.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import make_parser, report
from workload import make_cache

from kdcache.cache import Cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import Commit, commit_key
from kdcache.cache.documents.parts import Probe
from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.protocol import Entry
from kdcache.codecs import open_codec
from kdcache.loader.order import Blocks, epoch_views
from kdcache.loader.window_reader import WindowReader

WINDOW = 4
BATCH = 256
PAGE = 1000
"""Entries that a bucket lists in one request."""


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


def simulate(folder: Path, rows: int, seeds: int, unit_rows: int) -> Path:
    """Make a cache of that size with commits and names, but hardly any records."""
    codec = open_codec("topk:k=10", classes=1000)
    cache = make_cache(folder, codec, rows, unit_rows=unit_rows)
    start_seed(cache, 0)
    records = np.zeros(len(cache.manifest.unit_range(0)), codec.record_dtype)
    first = commit_unit(cache, 0, 0, records, probes=_probes(cache, 0), statistics={"mean": 0.0})
    for seed in range(seeds):
        (folder / commit_key(seed, 0)).parent.mkdir(parents=True, exist_ok=True)
        for unit in range(cache.manifest.num_units):
            span = cache.manifest.unit_range(unit)
            of_unit = {
                "seed": seed,
                "unit": unit,
                "start": span.start,
                "stop": span.stop,
                "key": cache.format.key(seed, unit),
            }
            commit = Commit(**{**vars(first), **of_unit, "probes": _probes(cache, unit)})
            (folder / commit_key(seed, unit)).write_bytes(commit.to_bytes())
            if (seed or unit) and not (folder / commit.key).exists():
                (folder / commit.key).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / first.key, folder / commit.key)
    return folder


def _probes(cache: Cache, unit: int) -> list[Probe]:
    """Return probes of the size of real ones, of the first rows of a unit."""
    probe = Probe(row=0, crc32=0, thumbnail="A" * 256, steps=[("decode", 0)] * 4)
    return [replace(probe, row=row) for row in cache.manifest.unit_range(unit)[:4]]


def measure(path: Path) -> dict[str, Any]:
    """Return requests and seconds of what is done with a large cache, each from a cache that was
    just opened."""
    actions: dict[str, Callable[[Cache], object]] = {
        "open": lambda cache: cache.manifest,
        "one unit of a seed": lambda cache: cache.read_unit(
            cache.commit_of(1, cache.manifest.num_units // 2)
        ),
        "commits of a seed": lambda cache: cache.commits(1),
        "complete seeds": lambda cache: cache.complete_seeds(),
        "order of rows": lambda cache: cache.order,
        "first batch": _first_batch,
    }
    return {name: _timed(path, action) for name, action in actions.items()}


def _first_batch(cache: Cache) -> object:
    """Return the soft targets of the first batch of an epoch, from an order of its views to decoded
    logits."""
    manifest = cache.manifest
    seed = 1
    blocks = Blocks(length=manifest.rows, unit_rows=manifest.unit_rows, window=WINDOW)
    stream = WindowReader(cache)
    stream.start([seed], [])
    views = epoch_views(
        np.arange(manifest.rows),
        manifest.rows,
        [seed],
        cache.recipe,
        run_seed=0,
        epoch=0,
        blocks=blocks,
    )
    stream.open_epoch(blocks.windows(0, 0), int(views[0, 0]))
    batch = views[:BATCH]
    stream.before(batch)
    return (
        cache.codec.decode(stream.gather(batch[:, 0], batch[:, 1])).logits(),
        cache.order[batch[:, 0]],
    )


def _timed(path: Path, action: Callable[[Cache], object]) -> dict[str, Any]:
    start = time.perf_counter()
    counted = Counted(path)
    action(Cache(counted, open_cache(path).manifest))
    counted.requests["objects"] += 1  # the manifest
    return {"seconds": time.perf_counter() - start, **counted.requests}


def main() -> None:
    parser = make_parser(__doc__, repetitions=1)
    parser.add_argument("--rows", type=int, default=14_000_000)
    parser.add_argument("--seeds", type=int, default=90)
    parser.add_argument("--unit-rows", type=int, default=65_536)
    options: argparse.Namespace = parser.parse_args()
    sizes = [
        (options.rows, options.seeds, options.unit_rows),
        (options.rows // 10, options.seeds, options.unit_rows),
        (options.rows, max(options.seeds // 10, 2), options.unit_rows),
        (options.rows, options.seeds, options.unit_rows * 4),
    ]
    results = {}
    for rows, seeds, unit_rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = simulate(Path(folder) / "cache", rows, seeds, unit_rows)
            name = f"{rows:,} rows x {seeds} seeds, units of {unit_rows:,}"
            results[name] = measure(path)
    rows = {f"{name}: {what}": found for name, of in results.items() for what, found in of.items()}
    report(results, rows, as_json=options.json)


if __name__ == "__main__":
    main()
