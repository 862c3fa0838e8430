"""An epoch of several students side by side against the same epoch of one.

    python benchmarks/side_by_side.py [--students N --student SPEC --size N] [--json]

The students train with DIST from one cache of photographs of 500x375 pixels, 1,000 classes. The
default is a student so small that rendering views limits it.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import interleave, make_parser, report, spreads
from workload import add_compute_options, compute_config, teacher_spec

from kdcache.dump.run import DumpConfig, run_dump
from kdcache.train.config import TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.metrics_log import NoMetrics
from kdcache.train.side_by_side import StudentRun, train_epoch
from kdcache.train.trainer import Trainer


def make_configs(folder: Path, options: argparse.Namespace) -> list[TrainConfig]:
    """Return the settings of students that differ in their run seed, with the cache they read."""
    data = f"workload:photos,length={options.views},width=500,height=375"
    epochs = options.repetitions + 1  # with the warm-up
    cache = str(folder / "cache")
    compute = compute_config(options)
    run_dump(
        DumpConfig(
            cache=cache,
            data=data,
            teacher=teacher_spec("mobilenetv3_small_050", options.size, folder),
            recipe="imagenet-b1",
            seeds=f"0:{epochs}",
            batch_size=options.batch,
            compute=compute,
        )
    )
    configs = []
    for number in range(options.students):
        config = TrainConfig(
            run=f"run{number}",
            cache=cache,
            data=data,
            student=options.student,
            run_seed=number,
            order_seed=0,
            epochs=epochs,
            batch_size=options.batch,
            compute=compute,
            log_steps=10**9,
        )
        configs.append(config)
    return configs


def runs_of(configs: Sequence[TrainConfig]) -> list[StudentRun]:
    """Return students that see their views together."""
    data = TrainingData(configs)
    return [StudentRun(Trainer(config, data), NoMetrics()) for config in configs]


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    configs = make_configs(folder, options)
    together = runs_of(configs)
    one = runs_of(configs[:1])
    times = interleave(
        {"together": lambda _: train_epoch(together), "one": lambda _: train_epoch(one)},
        options.repetitions,
    )
    waits = one[0].trainer
    return {
        "students": options.students,
        "steps": waits.loader.steps_per_epoch,
        "seconds": {name: spreads(each) for name, each in times.items()},
        "together_over_one": spreads(times["together"] / times["one"]),
    }


def main() -> None:
    parser = make_parser(__doc__, repetitions=5)
    add_compute_options(parser, size=64, batch=64)
    parser.add_argument(
        "--student",
        default="workload:perceptron,mean=0.5,std=0.25,size=64,input_size=64",
        help="its spec",
    )
    parser.add_argument("--students", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), options)
    rows = {f"seconds, {name}": value for name, value in result["seconds"].items()}
    rows[f"{options.students} students / one (goal 1.5)"] = result["together_over_one"]
    report(result, rows, as_json=options.json)


if __name__ == "__main__":
    main()
