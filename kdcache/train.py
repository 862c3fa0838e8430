"""Training a student, from caches, with a teacher in the loop, or on labels only: a run, and the folder that it lives in."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from kdcache.agreement import require_same_settings
from kdcache.checkpoint import held_folder, load_checkpoint, make_folder, replace_file, save_checkpoint
from kdcache.compute import device_type
from kdcache.config import config_differences, dump_config, load_config
from kdcache.distributed import (
    StopLook,
    broadcast_object,
    is_main,
    joined_processes,
    on_main,
    others_that_fail,
)
from kdcache.errors import MismatchError, UsageError
from kdcache.stopping import heeding
from kdcache.tracking import BoardMetrics, Metrics, MetricsFile, NoMetrics, read_metrics, say
from kdcache.train_config import TrainConfig
from kdcache.trainer import Trainer

__all__ = ["TrainConfig", "Trainer", "plan_training", "train_student"]

_HOW = ("log_steps", "checkpoint_minutes", "tensorboard", "slab_dir", "slab_limit", "wait_for_units")
_FREE = ("run", "compute.workers", "compute.device", *_HOW)
PLAN_SECONDS = 10.0
_PLACES = ("data", "eval_data", "cache")
"""Where things lie may change between a run and its resume; that they are the same is checked by their fingerprints."""


def train_student(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the run's result; run again, it goes on from the last checkpoint.

    Under torchrun every process calls it. The run's folder holds `config.toml`, `metrics.jsonl`, `last.pt`, `best.safetensors`
    if there is evaluation data, and at the end `student.safetensors`, `ema.safetensors` if there is an average, and
    `result.json`.

    Returns:
        `run`, `epochs`, `steps`, the last `top1`, `top5` and `eval_loss` on the evaluation data (if there is any, and of the
        average after `ema_`; of segmentation `miou`, `pixel_accuracy`, `eval_loss` and each class's `iou/NAME`), `best_top1`
        (`best_miou`) and `best_epoch`, `train_loss`, `seconds` of training without evaluation, `views_per_second` in training,
        `peak_memory` in bytes.

    Raises:
        MismatchError: the run was started with other settings, or the data is not that of the cache.
        KdcacheError: bad input, missing or damaged units, a loss that is not finite.
    """
    run = Path(config.run)
    joined = joined_processes(device_type(config.compute.device))
    with joined, others_that_fail(), ExitStack() as held:
        require_same_settings(config)
        if (finished := on_main(lambda: _finished(run, config))) is not None:
            return finished
        on_main(lambda: _check_folder(run, config))
        trainer = Trainer(config)
        held.callback(trainer.close)
        trainer.require_readable_evaluation()
        on_main(lambda: held.enter_context(_own_folder(run)))
        return _train(run, config, trainer)


def plan_training(config: TrainConfig) -> dict[str, Any]:
    """Return what the training would take, from a few steps of it; nothing is written but slabs.

    Returns:
        `student` and `teacher` (specs, or the caches'), the student's `parameters` and input `size`, `epochs`, `epochs_done`,
        `steps_per_epoch`, `seeds`, `views_per_second`, `data_share` (of the time, spent waiting for views), `epoch_seconds` and
        `seconds` of what is left, without evaluation, `peak_memory` in bytes, and the `slab_bytes` of a seed.

    Raises:
        KdcacheError: whatever would stop the training before or in its first steps.
    """
    run = Path(config.run)
    joined = joined_processes(device_type(config.compute.device))
    with joined, others_that_fail(), ExitStack() as held:
        require_same_settings(config)
        on_main(lambda: _check_folder(run, config))
        checkpoint = on_main(lambda: load_checkpoint(run / "last.pt"))
        trainer = Trainer(config)
        held.callback(trainer.close)
        trainer.require_readable_evaluation()
        probe = trainer.probe(seconds=PLAN_SECONDS)
        epoch_seconds = probe["steps_per_epoch"] * config.batch_size / probe["views_per_second"]
        manifests = [use.cache.manifest for use in trainer.replay.caches]
        done = checkpoint["epoch"] if checkpoint else 0
        return {
            "student": config.student,
            "teacher": ", ".join(config.caches) or config.teacher or "none: labels only",
            "parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
            "size": trainer.student.preprocessing.size,
            "epochs": config.epochs,
            "epochs_done": done,
            "seeds": trainer.replay.seeds,
            **probe,
            "epoch_seconds": epoch_seconds,
            "seconds": (config.epochs - done) * epoch_seconds,
            "peak_memory": trainer.compute.peak_memory(),
            "slab_bytes": sum(manifest.rows * manifest.dtype.itemsize for manifest in manifests),
        }


def _train(run: Path, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """Train what is left of the run whose folder this process, or rank 0, holds."""
    if (checkpoint := on_main(lambda: load_checkpoint(run / "last.pt"))) is not None:
        trainer.load_state(checkpoint)
    metrics = _start(run, config, trainer) if is_main() else NoMetrics()
    best = checkpoint["best"] if checkpoint else {trainer.task.best: -1.0}
    kept_step = checkpoint["step"] if checkpoint else None
    keeper = _Keeper(run, config.checkpoint_minutes, trainer, best, kept_step=kept_step)
    with heeding(keeper.keep):
        while not trainer.is_finished:
            line = trainer.run_epoch(metrics, keeper.after_step, keeper.before_evaluation)
            metrics.write(line)
            keeper.after_epoch(line)
            if is_main():
                _say_epoch(line, config.epochs)
    if is_main():
        for name, module in trainer.weights().items():
            _save_weights(run / f"{name}.safetensors", module)
        result = _result(config, trainer, best, read_metrics(run / "metrics.jsonl"))
        replace_file(run / "result.json", lambda file: file.write(json.dumps(result, indent=1).encode()))
    return broadcast_object(result if is_main() else {}, "the result")


class _Keeper:
    """Decides when a checkpoint is written, and writes it: rank 0's is that of all processes."""

    def __init__(
        self,
        run: Path,
        minutes: float,
        trainer: Trainer,
        best: dict[str, Any],
        *,
        kept_step: int | None,
    ) -> None:
        self._run, self._trainer, self._best = run, trainer, best
        self._pause = 60 * minutes
        self._last = time.monotonic()
        self._kept_step = kept_step
        self._look = StopLook()

    def after_step(self) -> None:
        self._look()
        if is_main() and time.monotonic() - self._last >= self._pause:
            self._save()

    def before_evaluation(self) -> None:
        """Keep the epoch's last step: an evaluation may take long, be stopped, or fail."""
        if is_main() and self._trainer.evaluation is not None:
            self._save()

    def keep(self) -> str:
        """Keep the last step, if it is not yet; return how a message tells it. All wait for it."""
        step = on_main(self._kept, "the checkpoint")
        return " before the first step" if step is None else f" after step {step}, which is kept"

    def _kept(self) -> int | None:
        if self._trainer.step and self._trainer.step != self._kept_step:
            self._save()
        return self._kept_step

    def after_epoch(self, line: dict[str, Any]) -> None:
        if not is_main():
            return
        best = self._trainer.task.best
        scores = {name: line[f"{name}{best}"] for name in ("", "ema_") if f"{name}{best}" in line}
        name = max(scores, key=lambda one: scores[one], default=None)
        if name is not None and scores[name] > self._best[best]:
            which = "ema" if name else "student"
            self._best.update({best: scores[name], "epoch": line["epoch"], "weights": which})
            _save_weights(self._run / "best.safetensors", self._trainer.weights()[which])
        self._save()

    def _save(self) -> None:
        save_checkpoint(self._run / "last.pt", {**self._trainer.state(), "best": self._best})
        self._kept_step = self._trainer.step
        self._last = time.monotonic()


@contextmanager
def _own_folder(run: Path) -> Iterator[None]:
    make_folder(run)
    with held_folder(run):
        yield


def _start(run: Path, config: TrainConfig, trainer: Trainer) -> Metrics:
    """Write the run's configuration, and return where its metrics go."""
    replace_file(run / "config.toml", lambda file: file.write(dump_config(config, "train-student").encode()))
    file = MetricsFile(run / "metrics.jsonl", step=trainer.step, epoch=trainer.epochs_scored)
    return BoardMetrics(run / "tensorboard", step=trainer.step, others=file) if config.tensorboard else file


def _finished(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the result of the run if it has come to its end with this very configuration; there is nothing to open then."""
    if not (run / "result.json").exists() or _differences(run, config, free=_FREE):
        return None
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def _check_folder(run: Path, config: TrainConfig) -> None:
    """Check that the run's folder is new, or was started with this configuration."""
    if (run / "config.toml").exists():
        if lines := _differences(run, config, free=_FREE + _PLACES):
            raise MismatchError(
                f"run {run} was started otherwise ({'; '.join(lines)}); choose a new folder, or the same settings"
            )
    elif run.exists() and (not run.is_dir() or any(path.name[0] != "." for path in run.iterdir())):
        raise UsageError(f"run {run} is not empty and not a run; choose a new folder")


def _differences(run: Path, config: TrainConfig, *, free: tuple[str, ...]) -> list[str]:
    there = load_config(TrainConfig, "train-student", file=str(run / "config.toml"), flags={})
    return config_differences(there, config, free=free)


def _save_weights(path: Path, module: nn.Module) -> None:
    state = module.state_dict()  # cloned below: safetensors takes no tied weights
    weights = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    replace_file(path, lambda file: file.write(safetensors_bytes(weights)))


def _say_epoch(line: dict[str, Any], epochs: int) -> None:
    scores = {"top-1": "top1", "mIoU": "miou", "of the average": "ema_top1", "mIoU of the average": "ema_miou"}
    told = "".join(f", {name} {line[key]:.2f} %" for name, key in scores.items() if key in line)
    say(f"epoch {line['epoch'] + 1}/{epochs}: loss {line['loss']:.4f}{told}, {line['views_per_second']:.0f} views/s")


def _result(config: TrainConfig, trainer: Trainer, best: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    epochs = [line for line in lines if line["kind"] == "epoch"]
    last = epochs[-1]
    task = trainer.task
    scores = {name: value for name, value in last.items() if name.endswith(task.summary)}
    classes = {name: value for name, value in last.items() if "iou/" in name}
    return {
        "run": config.run,
        "loss": config.loss,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        **scores,
        **classes,
        **({f"best_{name}": best[name] for name in (task.best, "epoch", "weights")} if scores else {}),
        "train_loss": last["loss"],
        "seconds": sum(line["seconds"] for line in epochs),
        "views_per_second": float(np.median([line["views_per_second"] for line in epochs])),
        "peak_memory": trainer.compute.peak_memory(),
    }
