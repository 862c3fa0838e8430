"""Small teachers, caches and runs that several tests share."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.dump.run import DumpConfig, run_dump
from kdcache.runtime.device import ComputeConfig
from kdcache.train.config import EmaConfig
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.run import TrainConfig, train_student
from kdcache.train.side_by_side import StudentRun, train_epoch
from kdcache.train.trainer import Trainer

MLP = "tiny_models:mlp,mean=0.5,std=0.25"
CONV = "tiny_models:conv,mean=0.5,std=0.25"
DIGITS = "tiny_models:few_digits"
IN_PROCESS = ComputeConfig(workers=0, device="cpu")


LONG: dict[str, Any] = {
    "data": DIGITS,
    "recipe": "digits",
    "loss": "ce",
    "epochs": 6,
    "batch_size": 8,
    "student": f"{MLP},dropout=0.3",
    "schedule": ScheduleConfig(warmup_epochs=2),
    "ema": EmaConfig(decay=0.9),
    "eval_data": DIGITS,
    "checkpoint_minutes": 0.0,
}
"""A checkpoint after each of 48 steps: long enough to be killed in the middle."""


def dump(path: Path | str, **changes: Any) -> dict[str, Any]:
    settings = {
        "data": DIGITS,
        "teacher": f"{CONV},seed=7",
        "recipe": "digits",
        "seeds": "0:2",
        "batch_size": 128,
    }
    return run_dump(DumpConfig(cache=str(path), compute=IN_PROCESS, **{**settings, **changes}))


def train_config(run: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": DIGITS,
        "student": MLP,
        "epochs": 2,
        "batch_size": 32,
        "log_steps": 1,
    }
    settings |= {"optimizer": OptimizerConfig(lr=0.05), "compute": IN_PROCESS}
    return TrainConfig(run=str(run), **{**settings, **changes})


def train(run: Path, **changes: Any) -> dict[str, Any]:
    return train_student(train_config(run, **changes))


def run_epoch(
    trainer: Trainer,
    metrics: Any,
    after_step: Callable[[], None] = lambda: None,
    before_evaluation: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train and evaluate what is left of an epoch, and return its line of metrics."""
    told: list[Any] = []
    run = StudentRun(trainer, metrics, after_step, before_evaluation, told.append)
    train_epoch([run])
    return dict(told[0])


def steps(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in steps(run)]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow past `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Lines:
    """Metrics in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: Any) -> None:
        self.lines.append(dict(line))

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines if line["kind"] == "step"]
