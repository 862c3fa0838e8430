"""Folders of runs, written as a training writes them, without one."""

import json
from pathlib import Path
from typing import Any

from kdcache.config.files import dump_config
from kdcache.train.config import TrainConfig
from kdcache.train.run_files import COMMAND

TIMES = {"seconds": 2.0, "views_per_second": 100.0, "data_seconds": 0.5, "cache_seconds": 0.1}


def forged_run(
    folder: Path,
    scores: list[dict[str, float]],
    *,
    losses: dict[str, float] | None = None,
    is_finished: bool = True,
    **settings: Any,
) -> Path:
    """Write the files of a run that had these scores after its epochs.

    Args:
        folder: of the run.
        scores: of each epoch.
        losses: the terms of the loss in the first epoch; in epoch E they are an E-th.
        is_finished: whether there is a result.
        settings: of the run.
    """
    common = {"data": "digits:train", "recipe": "digits", "student": "timm:x", "loss": "ce"}
    config = TrainConfig(run=str(folder), epochs=5, **{**common, **settings})
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_config(config, COMMAND), "utf-8")
    terms = losses or {"task": 2.0}
    lines = []
    for epoch, of_epoch in enumerate(scores, 1):
        parts = {name: value / epoch for name, value in terms.items()}
        line = {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "lr": 0.1, "seed": 0}
        lines.append({**line, "loss": sum(parts.values()), **parts, **TIMES, **of_epoch})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        result = {"loss": config.loss, "epochs": 5, "steps": 50, **scores[-1], "seconds": 10.0}
        result |= {"views_per_second": 100.0, "peak_memory": {"host": 5_000_000}}
        for name in ("top1", "miou", "ap"):
            if name in scores[-1]:
                result[f"best_{name}"] = max(each[name] for each in scores)
        (folder / "result.json").write_text(json.dumps({**result, "finished": "2026-01-02"}))
    return folder


def rising(last: float, name: str = "top1", *, num_epochs: int = 5) -> list[dict[str, float]]:
    """Return scores that rise to `last`."""
    scores = []
    for epoch in range(1, num_epochs + 1):
        value = last * epoch / num_epochs
        scores.append({name: value, "eval_loss": 3 - value / 100})
    return scores


LOSSES = {"ce": {"task": 2.0}, "dist:tau=4": {"inter": 3.0, "intra": 4.0, "task": 2.0}}
LAST = {"ce": (80.0, 82.0, 81.0), "dist:tau=4": (84.0, 85.0, 83.5)}
"""The last score of each loss under run seeds 0, 1 and 2."""


def compared_runs(folder: Path) -> Path:
    """Write six runs: two losses, three run seeds each."""
    for loss, values in LAST.items():
        for seed, value in enumerate(values):
            forged_run(
                folder / f"{loss[:2]}-{seed}",
                rising(value),
                losses=LOSSES[loss],
                loss=loss,
                cache="caches/full",
                recipe=None,
                run_seed=seed,
                order_seed=None if seed == 0 else 0,
            )
    return folder
