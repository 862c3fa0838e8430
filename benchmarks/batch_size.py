"""What a batch costs on a CPU: processor time of a view and peak memory, by the size of the batch.

    python benchmarks/batch_size.py [--models resnet18 ...] [--sizes 128 ...] [--batches 32 ...]

Each point is a process of its own, whose memory counts from the model on. It runs an untrained
model of timm on noise, one untimed batch first.
"""

import argparse
import multiprocessing
import resource
import time
from typing import Any

import torch
from measure import make_parser, report

from kdcache.runtime.device import Compute, ComputeConfig

MODELS = ["mobilenetv3_small_100", "resnet18", "efficientnet_lite0"]
SIZES = [128, 224]
BATCHES = [1, 8, 32, 128, 256]
VIEWS = 256
"""Of a repetition, or one batch if that is more."""


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def point(name: str, size: int, batch: int, threads: int, repetitions: int) -> dict[str, Any]:
    """Return what a batch of so many views of so many pixels costs."""
    import timm  # noqa: PLC0415

    torch.set_num_threads(threads)
    Compute(ComputeConfig(device="cpu", workers=0))  # which keeps freed memory
    model = timm.create_model(name).eval()
    before = peak_megabytes()
    views = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    num_batches = max(VIEWS // batch, 1)
    milliseconds = []
    with torch.inference_mode():
        model(views / 255 - 0.5)
        for _ in range(repetitions):
            start = time.process_time()
            for _ in range(num_batches):
                model(views / 255 - 0.5)
            seconds = time.process_time() - start
            milliseconds.append(1000 * seconds / (num_batches * batch))
    return {
        "milliseconds_per_view": min(milliseconds),
        "megabytes": round(peak_megabytes() - before),
    }


def points(options: argparse.Namespace) -> dict[str, Any]:
    """Return all points by what they are of, each from a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = {}
    for name in options.models:
        for size in options.sizes:
            for batch in options.batches:
                arguments = (name, size, batch, options.threads, options.repetitions)
                with context.Pool(1) as pool:
                    results[f"{name} {size} px, batch {batch}"] = pool.apply(point, arguments)
    return results


def main() -> None:
    parser = make_parser(__doc__, repetitions=3)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    results = points(options)
    report({"benchmark": "batch_size", "points": results}, results, as_json=options.json)


if __name__ == "__main__":
    main()
