"""What the batch of a dump costs on a CPU: processor time of a view, loading and loader workers
included, and peak memory, against batches of 256.

    python benchmarks/batch_size.py [--teachers mean ...] [--inputs small ...] [--batches 64 ...]

A point is a whole dump by an untrained teacher in a process of its own; importing libraries and
building the model are not counted. Points that differ by their batch alone take turns.
"""

import argparse
import gc
import itertools
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from measure import make_parser, report, spread
from torch import nn
from views import CLASSES, PHOTOGRAPH
from workload import DISTINCT, jpeg

from kdcache import dump_teacher

SMALL_SIDE = 32
MEAN = "mean"
"""The teacher that takes next to nothing."""


class Input(NamedTuple):
    """What a teacher sees."""

    images: str
    """The folder that has them."""
    recipe: str
    size: int
    times: int = 1
    """How many times as many of them there are."""


INPUTS = {
    "small": Input("small", "cifar", SMALL_SIDE, times=4),
    "128": Input("photographs", "imagenet-b1", 128),
    "224": Input("photographs", "imagenet-b1", 224),
}


class Point(NamedTuple):
    """One dump."""

    teacher: str
    input: str
    workers: int
    batch: int


def write_images(folder: Path, length: int) -> None:
    """Write photographs, small images, and a few of these as image folders."""
    num_distinct = min(length, DISTINCT)
    photographs = [jpeg(seed, *PHOTOGRAPH) for seed in range(num_distinct)]
    small = [jpeg(seed, SMALL_SIDE, SMALL_SIDE) for seed in range(num_distinct)]
    _write_folder(folder / "photographs", photographs, length)
    _write_folder(folder / "small", small, length * INPUTS["small"].times)
    _write_folder(folder / "few", small, num_distinct)


def _write_folder(folder: Path, files: list[bytes], length: int) -> None:
    for number in range(length):
        path = folder / f"class{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])


def teacher(name: str) -> nn.Module:
    """Return an untrained model of timm, or the mean of each channel."""
    if name == MEAN:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))
    return timm.create_model(name, num_classes=CLASSES)


def processor_seconds() -> float:
    """Return what this process and those that it has ended have taken."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dump(point: Point, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return what a dump costs: milliseconds of a view, and megabytes of the main process beyond
    what it has before."""
    images, recipe, size, times = INPUTS[point.input]
    model = teacher(point.teacher)
    before = peak_megabytes()
    start = processor_seconds()
    clock = time.perf_counter()
    _run(
        folder,
        images,
        model,
        recipe,
        size=size,
        seeds=options.seeds,
        batch=point.batch,
        workers=point.workers,
    )
    gc.collect()  # a worker's time is known when it has ended
    num_views = times * options.views * options.seeds
    return {
        "milliseconds": 1000 * (processor_seconds() - start) / num_views,
        "clock": 1000 * (time.perf_counter() - clock) / num_views,
        "megabytes": peak_megabytes() - before,
    }


def _run(
    folder: Path,
    images: str,
    model: nn.Module,
    recipe: str,
    *,
    size: int,
    seeds: int,
    batch: int,
    workers: int,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        dump_teacher(
            f"{place}/cache",
            data=f"imagefolder:{folder / images}",
            teacher=model,
            teacher_classes=CLASSES,
            recipe=recipe,
            size=size,
            mean=0.5,
            std=0.5,
            seeds=f"0:{seeds}",
            codec="full",
            batch_size=batch,
            num_workers=workers,
            device="cpu",
        )


def measure(folder: Path, options: argparse.Namespace) -> dict[Point, list[dict[str, float]]]:
    """Return the repetitions of each point, each from a process of its own."""
    # what is imported late is imported before, and so not counted
    torch.set_num_threads(options.threads)
    _run(folder, "few", teacher(MEAN), "cifar", size=SMALL_SIDE, seeds=1, batch=8, workers=0)
    context = multiprocessing.get_context("fork")
    results: dict[Point, list[dict[str, float]]] = {}
    cases = [*itertools.product(options.teachers, options.inputs, options.workers)]
    for repetition in range(options.repetitions):
        for case in cases:
            for batch in options.batches if repetition % 2 else options.batches[::-1]:
                point = Point(*case, batch)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_send, args=(sender, point, folder, options)
                )  # a daemon could have no loader workers
                process.start()
                sender.close()
                results.setdefault(point, []).append(receiver.recv())
                print(repetition, point, results[point][-1], file=sys.stderr, flush=True)
                process.join()
    return results


def _send(sender: Any, point: Point, folder: Path, options: argparse.Namespace) -> None:
    sender.send(dump(point, folder, options))


def summary(results: dict[Point, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the spreads of each point, and of its time over that of the largest batch in the same
    repetition."""
    points = {}
    for point, costs in results.items():
        largest = max(other.batch for other in results if other[:3] == point[:3])
        usual = results[point._replace(batch=largest)]
        name = f"{point.teacher} {point.input}, {point.workers} workers, batch {point.batch}"
        milliseconds = np.array([cost["milliseconds"] for cost in costs])
        usual_milliseconds = np.array([cost["milliseconds"] for cost in usual])
        points[name] = {
            "milliseconds": spread(milliseconds),
            f"time_over_{largest}": spread(milliseconds / usual_milliseconds),
            "clock": spread([cost["clock"] for cost in costs]),
            "megabytes": spread([cost["megabytes"] for cost in costs]),
        }
    return points


def main() -> None:
    parser = make_parser(__doc__, repetitions=5)
    names = [MEAN, "mobilenetv3_small_100", "efficientnet_lite0"]
    parser.add_argument("--teachers", nargs="+", default=names)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=[*INPUTS])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--views", type=int, default=512, help="images")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    # the disk of the working folder: /tmp may be memory
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        folder = Path(name)
        write_images(folder, options.views)
        points = summary(measure(folder, options))
    report(
        {"benchmark": "batch_size", "settings": vars(options), "points": points},
        points,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
