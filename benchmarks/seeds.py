"""A dump of four seeds against four dumps of one, where the source limits: photographs of 500x375,
and a teacher that takes next to nothing.

    python benchmarks/seeds.py [--views N --batch N --workers N] [--json]
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import interleave, make_parser, report, spread, spreads
from torch import nn
from views import CLASSES, PHOTOGRAPH, Files
from workload import add_compute_options, compute_config

from kdcache.cache import create_cache
from kdcache.cache.committing import start_seed
from kdcache.dump.config import DumpConfig
from kdcache.dump.given import GivenObjects
from kdcache.dump.job import prepare
from kdcache.dump.shares import UnitOrder
from kdcache.dump.worker import write_units
from kdcache.runtime.console import progress
from kdcache.sources import as_source
from kdcache.views import load_recipe

SEEDS = 4


def teacher() -> nn.Module:
    """Return a model that looks at the mean of each channel."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of both, and their ratio."""
    files = Files(PHOTOGRAPH, options.views)
    source = as_source(files)
    config = DumpConfig(
        cache=str(folder / "cache"),
        data=source.spec,
        teacher="teacher",
        recipe="imagenet-b1",
        codec="topk:k=16",
        batch_size=options.batch,
        seeds_at_once=SEEDS,
        unit_rows=options.views // 2,
        compute=compute_config(options),
    )
    objects = GivenObjects(
        source=source,
        recipe=load_recipe("imagenet-b1"),
        teacher=teacher(),
        preprocessing={"size": options.size, "mean": 0.5, "std": 0.5},
    )
    job = prepare(config, objects)
    cache = create_cache(config.cache, job.manifest)
    numbers = range(cache.manifest.num_units)

    def write(groups: list[list[tuple[int, int]]]) -> None:
        with progress("dump", 0, "views", is_shown=False) as bar:
            num_written = len([*write_units(job, cache, UnitOrder(groups), bar)])
        assert num_written == sum(map(len, groups))

    first_seeds = itertools.count(0, SEEDS)

    def new_seeds() -> list[int]:
        first = next(first_seeds)
        for seed in range(first, first + SEEDS):
            start_seed(cache, seed)
        return [*range(first, first + SEEDS)]

    def together(_: int) -> None:
        seeds = new_seeds()
        write([[(seed, number) for seed in seeds] for number in numbers])

    def one_by_one(_: int) -> None:
        for seed in new_seeds():
            write([[(seed, number)] for number in numbers])

    variants: dict[str, Callable[[int], object]] = {"together": together, "one by one": one_by_one}
    times = interleave(variants, options.repetitions)
    num_views = SEEDS * options.views
    return {
        "rate_over_one_by_one": spreads(times["one by one"] / times["together"]),
        "together_views_per_second": spread(num_views / times["together"][:, 0]),
        "one_by_one_views_per_second": spread(num_views / times["one by one"][:, 0]),
    }


def main() -> None:
    parser = make_parser(__doc__, repetitions=7)
    add_compute_options(parser, size=224, batch=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # the disk of the working folder: /tmp may be memory
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        result = measure(Path(name), options)
    lines = {
        "views/s, four seeds / one by one (goal 1.6)": result["rate_over_one_by_one"],
        "together, views/s": result["together_views_per_second"],
        "one by one, views/s": result["one_by_one_views_per_second"],
    }
    report({"benchmark": "seeds", "settings": vars(options), **result}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
