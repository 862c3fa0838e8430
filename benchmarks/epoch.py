"""A training epoch from the cache against the same epoch on labels only, and with the teacher in
the loop.

    python benchmarks/epoch.py [--student NAME --teacher NAME --size N --threads N] [--json]

Trainers of the product itself, one per variant, take turns on the same rows under the same seeds;
every epoch has a seed of its own, so each also reads and verifies a fresh slab in the background.
Models are timm's with random weights, 1,000 classes.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleave, make_parser, report, seconds_per_call, spreads
from workload import add_compute_options, compute_config, teacher_spec

from kdcache.dump.run import DumpConfig, run_dump
from kdcache.loader.teachers import OnlineTeacher
from kdcache.losses import open_loss
from kdcache.train.metrics_log import MetricsFile
from kdcache.train.run import TrainConfig, Trainer
from kdcache.train.side_by_side import StudentRun, train_epoch

CODECS = {"full": "full:dtype=float16", "topk": "topk:k=10"}
DIST = "dist:tau=1,beta=2,gamma=2"


def make_trainers(folder: Path, options: argparse.Namespace) -> dict[str, Trainer]:
    """Return the trainers of all variants, with the caches they read."""
    compute = compute_config(options)
    data = f"workload:photos,length={options.views}"
    teacher = teacher_spec(options.teacher, options.size, folder)
    epochs = options.repetitions + 1  # with the warm-up
    common: dict[str, Any] = {
        "data": data,
        "batch_size": options.batch,
        "compute": compute,
        "epochs": epochs,
    }
    common |= {"student": f"timm:{options.student},input_size={options.size}", "log_steps": 10**9}
    # reading does not depend on what the logits are
    teacher_model = teacher_spec("mobilenetv3_small_050", options.size, folder)
    dump: dict[str, Any] = {
        "data": data,
        "teacher": teacher_model,
        "recipe": "imagenet-b1",
        "batch_size": options.batch,
    }
    seeds = f"0:{epochs}"
    configs = {
        "labels": TrainConfig(run="none", loss="ce", recipe="imagenet-b1", seeds=seeds, **common)
    }
    for name, codec in CODECS.items():
        cache = str(folder / name)
        run_dump(DumpConfig(cache=cache, codec=codec, seeds=seeds, compute=compute, **dump))
        configs[name] = TrainConfig(run="none", loss=DIST, cache=cache, **common)
    configs["online"] = TrainConfig(
        run="none", loss=DIST, recipe="imagenet-b1", teacher=teacher, seeds=seeds, **common
    )
    return {name: Trainer(config) for name, config in configs.items()}


def teacher_passes(trainer: Trainer) -> Callable[[int], None]:
    """Return bare forward passes of the trainer's teacher over one epoch's views, rendered
    beforehand."""
    assert isinstance(trainer.loader.teacher, OnlineTeacher)
    trainer.loader._sampler.set_epoch(all_views(trainer))
    batches = [batch.views[-1] for batch in trainer.loader.rendered()]
    model = trainer.compute.place(trainer.loader.teacher._model).eval()

    def run(_: int) -> None:
        with torch.no_grad(), trainer.compute.autocast():
            for views in batches:
                model(trainer.compute.move(views))
        _wait()

    return run


def all_views(trainer: Trainer) -> np.ndarray:
    """Return (row, seed) of every row under the first seed."""
    rows = np.arange(len(trainer.loader.replay.source))
    return np.stack([rows, np.full_like(rows, trainer.loader.replay.seeds[0])], axis=1)


def parts(trainer: Trainer, folder: Path) -> dict[str, float]:
    """Return milliseconds per batch of what a cached epoch adds to one on labels only.

    `slab` is a seed's fetch, check and write, spread over the epoch's batches; training does it in
    the background.
    """
    cache = trainer.loader.replay.caches[0].cache
    seed = trainer.loader.replay.seeds[0]
    trainer.loader._sampler.set_epoch(all_views(trainer))
    trainer.loader.teacher.start([seed], [])
    views = next(trainer.loader.rendered())
    rows = trainer.loader.teacher.soft_targets(views)
    logits = torch.randn(
        len(views.rows),
        trainer.loader.replay.source.classes,
        device=trainer.compute.device,
        requires_grad=True,
    )
    targets = trainer.compute.move(views.labels.first)
    loss = open_loss(DIST)

    def slab() -> None:
        os.environ["KDCACHE_HOME"] = tempfile.mkdtemp(dir=folder)
        cache.slab(seed)

    def gather_and_decode() -> None:
        trainer.loader.teacher.soft_targets(views)
        _wait()

    def dist() -> None:
        torch.stack(list(loss.terms(logits, rows, targets).values())).sum().backward()  # type: ignore[no-untyped-call]
        _wait()

    def milliseconds(call: Callable[[], None]) -> float:
        return 1000 * float(np.median([seconds_per_call(call, 1) for _ in range(25)]))

    return {
        "gather_and_decode": milliseconds(gather_and_decode),
        "slab": milliseconds(slab) / len(trainer.loader._sampler),
        "dist": milliseconds(dist),
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    trainers = make_trainers(folder, options)
    metrics = MetricsFile(folder / "metrics.jsonl", step=0)

    def epochs(trainer: Trainer) -> Callable[[int], None]:
        return lambda _: train_epoch([StudentRun(trainer, metrics)]) or _wait()

    variants = {name: epochs(trainer) for name, trainer in trainers.items()}
    times = interleave(
        variants | {"teacher": teacher_passes(trainers["online"])}, options.repetitions
    )
    ideal = (times["teacher"] + times["labels"]) / times["labels"]
    result: dict[str, Any] = {
        "seconds": {name: spreads(each) for name, each in times.items()},
        "ideal": spreads(ideal),
    }
    step = 1000 * float(np.median(times["labels"][:, 0])) / trainers["labels"].loader.num_steps
    result["labels_step_milliseconds"] = step
    for name in CODECS:
        milliseconds = parts(trainers[name], folder)
        speed_up = times["online"] / times[name]
        result[name] = {
            "over_labels": spreads(times[name] / times["labels"]),
            "speed_up": spreads(speed_up),
            "share_of_ideal": spreads(speed_up / ideal),
            "milliseconds_per_batch": milliseconds,
            "over_labels_from_parts": 1 + sum(milliseconds.values()) / step,
        }
    return result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = make_parser(__doc__, repetitions=9)
    parser.add_argument("--student", default="resnet18", help="timm model")
    parser.add_argument("--teacher", default="resnet50", help="timm model")
    add_compute_options(parser, size=64, batch=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["KDCACHE_HOME"] = name
        result = measure(Path(name), options)
    lines: dict[str, Any] = {
        "labels only, s per epoch": result["seconds"]["labels"],
        "ideal speed-up": result["ideal"],
    }
    lines["labels only, ms per batch"] = result["labels_step_milliseconds"]
    for name in CODECS:
        lines[f"{name}: epoch / labels only (goal 1.02)"] = result[name]["over_labels"]
        lines[f"{name}: share of ideal speed-up (goal 0.95)"] = result[name]["share_of_ideal"]
        lines[f"{name}: the same from the parts below"] = result[name]["over_labels_from_parts"]
        lines |= {
            f"{name}: {part}, ms per batch": value
            for part, value in result[name]["milliseconds_per_batch"].items()
        }
    report({"benchmark": "epoch", "settings": vars(options), **result}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
