"""The dump against bare teacher inference over the same views.

    python benchmarks/dump.py [--size N --threads N --codec SPEC] [--json]

Bare: the product's own loader renders each view, the teacher's forward pass runs, the logits are
dropped. The dump does that and encodes, counts, probes, compresses, syncs and commits. Both start
from a teacher and a source that are open already. Two units are written each time: one is committed
while the next is computed, the last is waited for.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, make_parser, report, seconds_per_call, spread, spreads
from workload import add_compute_options, compute_config, teacher_spec

from kdcache.cache import Cache, create_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.dump.job import Job, prepare
from kdcache.dump.run import DumpConfig
from kdcache.dump.shares import UnitOrder
from kdcache.dump.worker import write_units
from kdcache.models.vision_model import TeacherLogits
from kdcache.runtime.console import progress
from kdcache.views import Batch, RowsUnderSeeds

CALLS = 15


def parts(job: Job, cache: Cache) -> dict[str, float]:
    """Return microseconds per view of what a dump adds to bare inference; the commit is hidden
    behind the next unit."""
    rows = cache.manifest.unit_range(0)
    batch = next(iter(job.loader(cache, [RowsUnderSeeds(rows, [0])])))
    given = [teacher_logits(job, batch)]
    encoder = job.encoder(cache)
    encoded = encoder.begin(batch, given)()
    for seed in range(1000, 1000 + CALLS):
        start_seed(cache, seed)
    seeds = itertools.count(1000)

    def microseconds(call: Callable[[], object]) -> float:
        return 1e6 * float(np.median([seconds_per_call(call, 1) for _ in range(CALLS)])) / len(rows)

    def encode() -> object:
        finish = encoder.begin(batch, given)
        return finish()

    return {
        "encode_and_count": microseconds(encode),
        "probe": microseconds(lambda: job.unit(cache, 0, 0).add(batch, encoded)),
        "commit": microseconds(lambda: commit_unit(cache, next(seeds), 0, encoded.records)),
    }


def teacher_logits(job: Job, batch: Batch) -> TeacherLogits:
    """Return the teacher's logits of a batch, on its device."""
    model = job.compute.place(job.teacher).eval()
    with torch.inference_mode(), job.compute.autocast():
        output = model(job.compute.move(batch.views[0]))
        return job.teacher.teacher_logits(output, batch.labels)


def measure(config: DumpConfig, views: int, repetitions: int) -> dict[str, Any]:
    """Return rates of a dump of so many views, and their ratio."""
    job = prepare(config)
    cache = create_cache(config.cache, job.manifest, job.codec.fit_arrays())
    job.compute.place(job.teacher).eval()

    def dump(seed: int) -> None:
        start_seed(cache, seed)
        units = UnitOrder([[(seed, unit)] for unit in range(cache.manifest.num_units)])
        with progress("dump", 0, "views", is_shown=False) as bar:
            assert len([*write_units(job, cache, units, bar)]) == cache.manifest.num_units

    def bare(seed: int) -> None:
        requests = [
            RowsUnderSeeds(range(start, min(start + config.batch_size, views)), [seed])
            for start in range(0, views, config.batch_size)
        ]
        for batch in job.loader(cache, requests):
            teacher_logits(job, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    times = interleave({"bare": bare, "dump": dump}, repetitions)
    added = parts(job, cache)
    bare_view = 1e6 * float(np.median(times["bare"][:, 0])) / views
    return {
        "microseconds_per_view": {"bare": bare_view, **added},
        "rate_over_bare_from_parts": bare_view / (bare_view + sum(added.values())),
        "views": views,
        "units": cache.manifest.num_units,
        "rate_over_bare": spreads(times["bare"] / times["dump"]),
        "dump_views_per_second": spread(views / times["dump"][:, 0]),
        "bare_views_per_second": spread(views / times["bare"][:, 0]),
    }


def config_of(folder: Path, name: str, views: int, options: argparse.Namespace) -> DumpConfig:
    """Return the dump of the timm model `name`."""
    return DumpConfig(
        cache=str(folder / f"{name}.cache"),
        data=f"workload:photos,length={views}",
        teacher=teacher_spec(name, options.size, folder),
        recipe="imagenet-b1",
        codec=options.codec,
        batch_size=options.batch,
        unit_rows=max(views // 2, options.batch),
        compute=compute_config(options),
    )


def main() -> None:
    parser = make_parser(__doc__, repetitions=9)
    parser.add_argument("--heavy", default="resnet34", help="timm model")
    parser.add_argument(
        "--light", default="mobilenetv3_small_050", help="timm model; it gets four times the views"
    )
    parser.add_argument("--codec", default="full:dtype=float16")
    add_compute_options(parser, size=96, batch=64)
    options = parser.parse_args()
    models = {options.heavy: options.views, options.light: 4 * options.views}
    with tempfile.TemporaryDirectory(
        prefix=".benchmark-", dir=Path.cwd()
    ) as name:  # the disk of the working folder: /tmp may be memory
        cases = {}
        for model, views in models.items():
            config = config_of(Path(name), model, views, options)
            cases[model] = measure(config, views, options.repetitions)
    lines = {
        f"{model}: {label}": case[key]
        for model, case in cases.items()
        for label, key in (
            ("rate of dump / bare (goal 0.98)", "rate_over_bare"),
            ("the same from the parts", "rate_over_bare_from_parts"),
            ("parts, microseconds per view", "microseconds_per_view"),
            ("dump, views/s", "dump_views_per_second"),
            ("bare, views/s", "bare_views_per_second"),
        )
    }
    report(
        {"benchmark": "dump", "settings": vars(options), "models": cases},
        lines,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
