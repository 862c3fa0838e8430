"""Training from a cache of maps: how fast records are read, what an epoch takes beside one on
labels only, memory of the loss.

    python benchmarks/map_epoch.py CACHE --student timm:test_resnet,output_stride=8 [--data SPEC
    --teacher SPEC --threads N] [--json]

CACHE is one of segmentation with two complete seeds or more, in a folder (benchmarks/README.md says
how to make one). Trainers of the product itself take turns on the same rows under the same seeds.
Files stay in the page cache, but where it says "from disk".
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from measure import (
    forget,
    interleave,
    make_parser,
    peak_bytes,
    report,
    seconds_per_call,
    spread,
    spreads,
)

from kdcache.cache import Cache, open_cache
from kdcache.loader.order import Blocks
from kdcache.loader.window_reader import WindowReader
from kdcache.losses import dist_loss
from kdcache.runtime.device import ComputeConfig
from kdcache.train.metrics_log import MetricsFile
from kdcache.train.optim import OptimizerConfig
from kdcache.train.run import TrainConfig, Trainer
from kdcache.train.side_by_side import StudentRun, train_epoch

DIST = "dist:tau=1,beta=1,gamma=1"
PIXELS = 64 * 128
CLASSES = 19


def reading(cache: Cache, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates of reading a seed, batch by batch, from a slab and in windows, against a plain
    read of as many bytes."""
    seed = cache.complete_seeds()[0]
    rows = cache.manifest.rows
    slab = cache.slab(seed)
    size = cache.manifest.dtype.itemsize
    plain = folder / "plain"
    slab.gather(np.arange(rows)).tofile(plain)
    mapped = np.memmap(plain, np.uint8, "r").reshape(rows, size)
    batches = np.array_split(np.random.default_rng(0).permutation(rows), -(-rows // options.batch))
    stream = WindowReader(cache)
    decoded = slab.gather(batches[0])

    blocks = Blocks(length=rows, unit_rows=cache.manifest.unit_rows, window=options.window)
    units = blocks.windows(0, 0)
    ordered = np.concatenate(blocks.parts(0, 0))

    def windows(_: int) -> None:
        stream.start([seed], [])
        stream.open_epoch(units, int(ordered[0]))
        for batch in np.array_split(ordered, len(batches)):
            seeds = np.full(len(batch), seed)
            stream.before(np.stack([batch, seeds], axis=1))
            stream.gather(batch, seeds)

    variants: dict[str, Callable[[int], object]] = {
        "plain": lambda _: plain.read_bytes(),
        "take": lambda _: [mapped.take(batch, axis=0) for batch in batches],
        "slab": lambda _: [slab.gather(batch) for batch in batches],
        "windows": windows,
        "plain, from disk": lambda _: plain.read_bytes(),
        "windows, from disk": windows,
        "units": lambda _: [cache.unit_bytes(commit) for commit in cache.commits(seed)],
    }
    cold = {
        "plain, from disk": lambda: forget(plain),
        "windows, from disk": lambda: forget(Path(str(cache))),
    }
    times = interleave(variants, options.repetitions, before=cold)
    rates = {name: spread(rows / each[:, 0]) for name, each in times.items()}
    return {
        "record_bytes": size,
        "bytes_on_disk_per_view": sum(commit.num_bytes for commit in cache.commits(seed)) / rows,
        "views_per_second": rates,
        "megabytes_per_second": {
            name: spread(size * rows / each[:, 0] / 1e6) for name, each in times.items()
        },
        "slab_over_take": spreads(times["take"] / times["slab"]),
        "windows_over_plain": spreads(times["plain"] / times["windows"]),
        "windows_over_plain_from_disk": spreads(
            times["plain, from disk"] / times["windows, from disk"]
        ),
        "decode_milliseconds_per_view": (
            1000 * seconds_per_call(lambda: cache.codec.decode(decoded).logits(), 5) / len(decoded)
        ),
    }


def epochs(cache: Cache, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of epochs on labels only, and with DIST from slabs, in windows and from the
    teacher in the loop if there is one, and their ratios."""
    recipe = folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(cache.manifest.recipe.table))
    seeds = cache.complete_seeds()
    common: dict[str, Any] = {
        **{
            "run": "none",
            "data": options.data or cache.manifest.source.spec,
            "student": options.student,
        },
        **{"batch_size": options.batch, "epochs": options.repetitions + 1, "log_steps": 10**9},
        **{
            "seeds": f"{seeds[0]}:{seeds[-1] + 1}",
            "optimizer": OptimizerConfig(lr=1e-4),  # any student stays finite at it
            "compute": ComputeConfig(workers=options.workers, precision=options.precision),
        },
    }
    path = str(cache)
    configs = {
        "labels": TrainConfig(loss="ce", recipe=str(recipe), **common),
        "slabs": TrainConfig(loss=DIST, cache=path, **common),
        "windows": TrainConfig(loss=DIST, cache=path, window=options.window, **common),
    }
    if options.teacher:
        configs["loop"] = TrainConfig(
            loss=DIST, teacher=options.teacher, recipe=str(recipe), **common
        )
    metrics = MetricsFile(folder / "metrics.jsonl", step=0)
    trainers = {name: Trainer(config) for name, config in configs.items()}
    runs = {name: StudentRun(trainer, metrics) for name, trainer in trainers.items()}
    times = interleave(
        {name: lambda _, run=run: train_epoch([run]) for name, run in runs.items()},
        options.repetitions,
    )
    found: dict[str, Any] = {"seconds": {name: spreads(each) for name, each in times.items()}}
    return {
        **found,
        **{
            f"{name}_over_labels": spreads(times[name] / times["labels"])
            for name in configs
            if name != "labels"
        },
    }


def loss_bytes(views: int) -> int:
    """Return the bytes that DIST on maps of 19 x 64 x 128 allocates at most at once, forward and
    backward."""
    student = torch.randn(views * PIXELS, CLASSES, requires_grad=True)
    teacher = torch.randn(views * PIXELS, CLASSES)
    return peak_bytes(lambda: dist_loss(student, teacher).backward())  # type: ignore[no-untyped-call]


def main() -> None:
    parser = make_parser(__doc__, repetitions=9)
    parser.add_argument("cache")
    parser.add_argument("--student", required=True)
    parser.add_argument("--data", help="by default the spec in the cache")
    parser.add_argument("--teacher", help="that made the cache, to run it in the loop as well")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=int, default=4, help="units of a window")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--workers", type=int, default=0, help="loader workers")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--only-reading", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cache = open_cache(options.cache)
    with tempfile.TemporaryDirectory() as name:
        os.environ["KDCACHE_HOME"] = name
        cache.slabs = type(cache.slabs)()
        read = reading(cache, Path(name), options)
        trained = {} if options.only_reading else epochs(cache, Path(name), options)
    memory = {str(views): loss_bytes(views) / 1e6 for views in (1, 2, 4, 8)}
    lines: dict[str, Any] = {
        "slab / take of a memory map, rate (goal 0.7)": read["slab_over_take"],
        "windows / plain read of the page cache": read["windows_over_plain"],
        "windows / plain read of the disk (goal 0.7)": read["windows_over_plain_from_disk"],
        **{f"{name}, views/s": rate for name, rate in read["views_per_second"].items()},
        **{f"{name}, MB/s of records": rate for name, rate in read["megabytes_per_second"].items()},
        "decode, ms per view": read["decode_milliseconds_per_view"],
        **{f"epoch, {name}": value for name, value in trained.items()},
        **{f"DIST, {views} views of 19 x 64 x 128, MB": value for views, value in memory.items()},
    }
    settings = {key: str(value) for key, value in vars(options).items()}
    result = {
        "benchmark": "map_epoch",
        "settings": settings,
        "reading": read,
        "epochs": trained,
        "dist_megabytes": memory,
    }
    report(result, lines, as_json=options.json)


if __name__ == "__main__":
    main()
