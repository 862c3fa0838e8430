"""Rows per second of `Slab.gather` against numpy's plain `take` on a memory map of the same file.

    python benchmarks/gather.py [--json]

The files stay in the page cache: this measures the code, not the disk.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, make_parser, report, spread, spreads
from workload import make_cache

from kdcache.cache import Cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.slab_folder import SlabFolder
from kdcache.codecs import open_codec

CASES = {"topk:k=10": 1_000_000, "full:dtype=float16": 50_000}
READS = 1


def filled_cache(folder: Path, spec: str, rows: int) -> Cache:
    """Return a cache whose seed 0 holds records of random logits: some thousands, over and over in
    other orders."""
    codec = open_codec(spec, classes=1000)
    cache = make_cache(folder / spec.partition(":")[0], codec, rows)
    start_seed(cache, 0)
    records = codec.encode(torch.randn(4096, 1000, generator=torch.Generator().manual_seed(0)))
    random = np.random.default_rng(0)
    for unit in range(cache.manifest.num_units):
        commit_unit(
            cache,
            0,
            unit,
            records[random.integers(0, len(records), len(cache.manifest.unit_range(unit)))],
        )
    return cache


def measure(folder: Path, spec: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates and their ratio for one codec."""
    cache = filled_cache(folder, spec, rows)
    slab = cache.slab(0)
    newest = max(SlabFolder().path.glob("*.slab"), key=lambda path: path.stat().st_mtime_ns)
    plain = np.memmap(newest, np.uint8, "r", shape=(rows, cache.manifest.dtype.itemsize))
    batches = np.random.default_rng(1).integers(
        0, rows, (options.repetitions + 1, options.batches, options.batch)
    )
    first = batches[0, 0]
    assert np.array_equal(
        slab.gather(first).view(np.uint8).reshape(options.batch, -1), plain.take(first, axis=0)
    )

    def each(call: Callable[[Any], object], batches: Any) -> Callable[[int], None]:
        return lambda repetition: [call(batch) for batch in batches[repetition]] and None

    variants = {
        "take": each(lambda batch: plain.take(batch, axis=0), batches),
        "gather": each(slab.gather, batches),
        "read": each(lambda batch: cache.read(0, batch), batches[:, :READS]),
    }
    times = interleave(variants, options.repetitions)
    return {
        "rows": rows,
        "record_bytes": cache.manifest.dtype.itemsize,
        "units": cache.manifest.num_units,
        "gather_over_take": spreads(times["gather"] / times["take"]),
        "gather_rows_per_second": spread(batches[0].size / times["gather"][:, 0]),
        "take_rows_per_second": spread(batches[0].size / times["take"][:, 0]),
        "read_milliseconds_per_batch": spread(1000 * times["read"][:, 0] / READS),
    }


def main() -> None:
    parser = make_parser(__doc__, repetitions=101)
    parser.add_argument("--batch", type=int, default=256, help="rows of a gather")
    parser.add_argument("--batches", type=int, default=200, help="gathers of a repetition")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["KDCACHE_HOME"] = name
        cases = {spec: measure(Path(name), spec, rows, options) for spec, rows in CASES.items()}
    lines = {
        f"{spec}: {label}": case[key]
        for spec, case in cases.items()
        for label, key in (
            ("time of gather / take (goal 1.5)", "gather_over_take"),
            ("gather, rows/s", "gather_rows_per_second"),
            ("take, rows/s", "take_rows_per_second"),
            ("Cache.read, ms per batch", "read_milliseconds_per_batch"),
        )
    }
    settings = {
        "batch": options.batch,
        "batches": options.batches,
        "repetitions": options.repetitions,
    }
    report({"benchmark": "gather", **settings, "cases": cases}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
