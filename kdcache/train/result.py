"""What a run tells of itself: a line of each epoch, and its result."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kdcache.runtime.console import say
from kdcache.runtime.wording import human_rate
from kdcache.tasks.score_names import leading_scores, title_of
from kdcache.train.config import TrainConfig
from kdcache.train.trainer import Trainer


def say_epoch(line: Mapping[str, Any], num_epochs: int, *, of: str = "", left: str = "") -> None:
    """Say the loss, the scores and the speed of an epoch.

    Args:
        line: of the run's metrics.
        num_epochs: of the run.
        of: which run, if there are several.
        left: how long the rest takes.
    """
    scores = ""
    for name in leading_scores(line):
        scores += f", {title_of(name)} {line[name]:.2f} %"
    run = f"{of}: " if of else ""
    outlook = f", {left}" if left else ""
    say(
        f"{run}epoch {line['epoch']}/{num_epochs}: loss {line['loss']:.4f}{scores},"
        f" {human_rate(line['views_per_second'])} views/s{outlook}"
    )


def run_result(
    config: TrainConfig,
    trainer: Trainer,
    best: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the result of a run that is finished, see `train_student`.

    Args:
        config: of the run.
        trainer: which has trained all epochs.
        best: the best epoch.
        lines: the run's metrics.
    """
    last: Mapping[str, Any] = {}  # if the file was lost
    seconds = []
    rates = []
    for line in lines:
        if line["kind"] == "epoch":
            last = line
            seconds.append(line["seconds"])
            rates.append(line["views_per_second"])
    median_rate = None
    if rates:
        median_rate = float(np.median(rates))
    return {
        "run": config.run,
        "loss": config.loss,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        **_scores(trainer, best, last),
        "train_loss": last.get("loss"),
        "seconds": sum(seconds),
        "views_per_second": median_rate,
        "peak_memory": trainer.compute.peak_memory(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _scores(trainer: Trainer, best: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the last epoch, those of its classes, and what is best of the run."""
    task = trainer.task
    scores = {}
    class_scores = {}
    for name, value in last.items():
        if name.removeprefix("ema_") in task.summary:
            scores[name] = value
        if "/" in name:
            class_scores[name] = value
    if not scores:
        return class_scores
    return {**scores, **class_scores, **_best_lines(task.best, best)}


def _best_lines(score_name: str, best: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best score of a run, and the epoch, counted from 1, and the weights that it is
    of."""
    return {
        f"best_{score_name}": best[score_name],
        "best_epoch": best["epoch"] + 1,
        "best_weights": best["weights"],
    }
