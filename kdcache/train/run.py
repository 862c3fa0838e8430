"""Training a student, from caches, with a teacher in the loop, or on labels only: a run, and the
folder that it lives in."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from kdcache.config.files import (
    config_differences,
    dump_config,
    load_config,
    parse_config,
    parse_seeds,
)
from kdcache.config.spec import Spec, normal_spec
from kdcache.errors import MismatchError, UsageError
from kdcache.losses import open_loss
from kdcache.models.registry import FAMILIES
from kdcache.models.weight_record import weight_record
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.runtime.device import device_type
from kdcache.runtime.distributed import (
    StopLook,
    broadcast_object,
    is_main,
    joined_processes,
    on_main,
    others_that_fail,
)
from kdcache.runtime.files import plain_bytes
from kdcache.runtime.stopping import heeding
from kdcache.runtime.text_files import path_bytes
from kdcache.train.agreement import require_same_settings
from kdcache.train.checkpoint import (
    held_folder,
    load_checkpoint,
    make_folder,
    path_before,
    replace_file,
    save_checkpoint,
)
from kdcache.train.config import TrainConfig
from kdcache.train.metrics_log import BoardMetrics, Metrics, MetricsFile, NoMetrics, read_metrics
from kdcache.train.preflight import require_writable
from kdcache.train.trainer import Trainer
from kdcache.views import load_recipe

__all__ = ["TrainConfig", "Trainer", "plan_training", "train_student"]

_HOW = (
    "log_steps",
    "checkpoint_minutes",
    "tensorboard",
    "slab_dir",
    "slab_limit",
    "wait_for_units",
)
_FREE = ("run", "compute.workers", "compute.device", *_HOW)
PLAN_SECONDS = 10.0
_CONFIG = "config.toml"
_METRICS = "metrics.jsonl"
_RESULT = "result.json"
_STUDENT = "student.safetensors"
_BEST = "best.safetensors"
_COMMAND = "train-student"
_SETTINGS = "settings"
"""In a checkpoint: those of the run that it is of, as `config.toml` has them."""
_PLACES = ("data", "eval_data", "cache")
"""Where things lie may change between a run and its resume; that they are the same is checked by
their fingerprints."""


def train_student(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the run's result; run again, it goes on from the last
    checkpoint.

    Under torchrun every process calls it. The run's folder holds `config.toml`, `metrics.jsonl`,
    `last.pt`, `best.safetensors` if there is evaluation data, and at the end `student.safetensors`,
    `ema.safetensors` if there is an average, and `result.json`.

    Returns:
        `run`, `epochs`, `steps`, the last `top1`, `top5` and `eval_loss` on the evaluation data (if
        there is any, and of the average after `ema_`; of segmentation `miou`, `pixel_accuracy`,
        `eval_loss` and each class's `iou/NAME`), `best_top1` (`best_miou`) and `best_epoch` (from
        1), `train_loss`, when it was `finished`, `seconds` of training without evaluation,
        `views_per_second` in training, `peak_memory` in bytes.

    Raises:
        MismatchError: the run was started with other settings, or the data is not that of the
            cache.
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
        `samples` and `classes` of the source, how many `samples_trained` on, `eval_samples` (None
        without evaluation), `student` and `teacher` (specs, or the caches'), the student's
        `parameters` and input `size`, `epochs`, `epochs_done`,
        `steps_per_epoch`, `seeds`, `views_per_second`, `data_share` (of the time, spent waiting for
        views), `epoch_seconds` and `seconds` of what is left, without evaluation, `peak_memory` in
        bytes, and the `slab_bytes` of a seed.

    Raises:
        KdcacheError: whatever would stop the training before or in its first steps.
    """
    run = Path(config.run)
    joined = joined_processes(device_type(config.compute.device))
    with joined, others_that_fail(), ExitStack() as held:
        require_same_settings(config)
        on_main(lambda: _check_folder(run, config))
        checkpoint = on_main(lambda: _checkpoint(run, config))
        trainer = Trainer(config)
        held.callback(trainer.close)
        trainer.require_readable_evaluation()
        probe = trainer.probe(seconds=PLAN_SECONDS)
        epoch_seconds = probe["steps_per_epoch"] * config.batch_size / probe["views_per_second"]
        manifests = [use.cache.manifest for use in trainer.loader.replay.caches]
        done = checkpoint["epoch"] if checkpoint else 0
        return {
            "samples": len(trainer.loader.replay.source),
            "classes": trainer.loader.replay.source.classes,
            "samples_trained": len(trainer.loader.replay.rows(np.empty(0, np.int64))),
            "eval_samples": len(trainer.evaluation.source) if trainer.evaluation else None,
            "student": config.student,
            "teacher": ", ".join(config.caches) or config.teacher or "none: labels only",
            "parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
            "size": trainer.student.preprocessing.size,
            "epochs": config.epochs,
            "epochs_done": done,
            "seeds": trainer.loader.replay.seeds,
            **probe,
            "epoch_seconds": epoch_seconds,
            "seconds": (config.epochs - done) * epoch_seconds,
            "peak_memory": trainer.compute.peak_memory(),
            "slab_bytes": sum(manifest.rows * manifest.dtype.itemsize for manifest in manifests),
        }


def _train(run: Path, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """Train what is left of the run whose folder this process, or rank 0, holds."""
    if (checkpoint := on_main(lambda: _checkpoint(run, config))) is not None:
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
            _save_weights(run / f"{name}.safetensors", module, config.student)
        _check_best(run, best)
        result = _result(config, trainer, best, read_metrics(run / _METRICS))
        replace_file(run / _RESULT, lambda file: file.write(json.dumps(result, indent=1).encode()))
    return broadcast_object(result if is_main() else {}, "the result")


def _checkpoint(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the run's last checkpoint, or None if it has none yet.

    Raises:
        KdcacheError: it is damaged.
        MismatchError: it is that of a run with other settings, or gone, and epochs were trained.
    """
    path = run / "last.pt"
    checkpoint = load_checkpoint(path, tell=say)
    if checkpoint is None:
        lines = read_metrics(run / _METRICS) if (run / _METRICS).exists() else []
        done = sum(line.get("kind") == "epoch" for line in lines)
        if done > 1:  # of the first one the checkpoint comes after the line
            raise MismatchError(
                f"run {run} has metrics of {done} epochs, and no checkpoint: {path} and"
                f" {path_before(path)} are gone; restore one of them, or choose a new folder"
            )
        return None
    if (text := checkpoint.get(_SETTINGS)) is None:  # of an older kdcache
        return checkpoint
    try:
        there = parse_config(TrainConfig, _COMMAND, text)
    except UsageError:  # of another version, which had other settings
        return checkpoint
    lines_that_differ = config_differences(there, config, free=_FREE + _PLACES, meanings=_MEANINGS)
    if lines_that_differ:
        raise MismatchError(
            f"checkpoint {path} is that of another run ({joined(lines_that_differ)}); restore this"
            " run's own from a copy, or choose a new folder"
        )
    return checkpoint


def _meant_caches(caches: str | tuple[str, ...]) -> list[Spec]:
    texts = (caches,) if isinstance(caches, str) else caches
    specs = [normal_spec(f"cache:{text}") for text in texts]
    return [replace(spec, options={"weight": 1, **spec.options}) for spec in specs]


def _meant_data(text: str) -> Spec:
    spec = normal_spec(text)
    if spec.name != "digits":
        return spec
    return Spec(spec.name, options={"split": spec.arg or "train", **spec.options})


def _meant_model(text: str) -> Spec:
    spec = normal_spec(text)
    family = FAMILIES.get(spec.name)
    if family is None:
        return spec
    return replace(spec, options={"pretrained": family.is_pretrained, **spec.options})


_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "cache": _meant_caches,
    "data": _meant_data,
    "eval_data": _meant_data,
    "loss": open_loss,
    "recipe": lambda text: load_recipe(text).fingerprint,
    "seeds": parse_seeds,
    "student": _meant_model,
    "teacher": _meant_model,
}
"""What the text of a setting means: two that mean the same are equal, however they are written."""


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
        self._run = run
        self._trainer = trainer
        self._best = best
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
            # checkpoints count epochs from 0, as they always have; what a user sees counts from 1
            self._best.update({best: scores[name], "epoch": line["epoch"] - 1, "weights": which})
            spec = self._trainer.config.student
            saved = _save_weights(self._run / _BEST, self._trainer.weights()[which], spec)
            self._best["sha256"] = saved
        self._save()

    def _save(self) -> None:
        settings = dump_config(self._trainer.config, _COMMAND)
        state = {**self._trainer.state(), "best": self._best, _SETTINGS: settings}
        save_checkpoint(self._run / "last.pt", state)
        self._kept_step = self._trainer.step
        self._last = time.monotonic()


@contextmanager
def _own_folder(run: Path) -> Iterator[None]:
    make_folder(run)
    with held_folder(run):
        yield


def _start(run: Path, config: TrainConfig, trainer: Trainer) -> Metrics:
    """Write the run's configuration, and return where its metrics go. With both files there the
    folder is that of a run."""
    file = MetricsFile(run / _METRICS, step=trainer.step, epochs=trainer.epochs_scored)
    replace_file(run / _CONFIG, lambda file: file.write(path_bytes(dump_config(config, _COMMAND))))
    if not config.tensorboard:
        return file
    return BoardMetrics(run / "tensorboard", step=trainer.step, others=file)


def _finished(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the result of the run if it has come to its end with this very configuration; there is
    nothing to open then."""
    if not (run / _RESULT).exists() or not _is_run(run) or _differences(run, config, free=_FREE):
        return None
    try:
        result: Any = json.loads((run / _RESULT).read_text("utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict):
        say(f"note: {run / _RESULT} is damaged, and is written again")
        return None
    if not (run / _STUDENT).is_file():
        say(f"note: {run / _STUDENT} is gone, and is written again")
        return None
    if "best_epoch" in result and not (run / _BEST).is_file():
        say(f"note: {run / _BEST} is gone; {run / _STUDENT} holds the weights of the last epoch")
    result["run"] = config.run  # it may have been moved or copied
    # of an older kdcache: it counted from 0
    if "finished" not in result and "best_epoch" in result:
        result["best_epoch"] += 1
    when = f" since {result['finished']}" if "finished" in result else ""
    way_out = "this is its result, nothing was trained; a new run takes a new folder"
    say(f"note: run {run} is finished{when}: {way_out}")
    return result


def _check_folder(run: Path, config: TrainConfig) -> None:
    """Check that the run's folder can be written, and is new, or was started so."""
    require_writable(run, "run")
    if _is_run(run):
        if lines := _differences(run, config, free=_FREE + _PLACES):
            raise MismatchError(
                f"run {run} was started otherwise ({joined(lines)}); choose a new folder, or the"
                " same settings"
            )
    elif run.exists() and (not run.is_dir() or _holds_other_files(run)):
        raise UsageError(f"run {run} is not empty and not a run; choose a new folder")


def _is_run(run: Path) -> bool:
    """Return whether a folder is that of a run; a file `config.toml` alone may be a user's own."""
    return (run / _CONFIG).exists() and ((run / _METRICS).exists() or (run / "last.pt").exists())


def _holds_other_files(run: Path) -> bool:
    """Return whether a folder holds more than a run that was killed in its first moment leaves: an
    empty file of metrics."""
    others = [path for path in run.iterdir() if path.name[0] != "."]
    return bool(others) and (others != [run / _METRICS] or others[0].stat().st_size > 0)


def _differences(run: Path, config: TrainConfig, *, free: tuple[str, ...]) -> list[str]:
    try:
        there = load_config(TrainConfig, _COMMAND, file=str(run / _CONFIG), flags={}, is_ours=True)
    except UsageError as error:
        raise UsageError(
            f"run {run}: its own {_CONFIG} is damaged ({error}); restore it from a copy, or"
            " choose a new folder"
        ) from error
    return config_differences(there, config, free=free, meanings=_MEANINGS)


def _save_weights(path: Path, module: nn.Module, spec: str) -> str:
    """Write the weights of a model that `spec` names, and return the digest of the file."""
    state = module.state_dict()  # cloned below: safetensors takes no tied weights
    weights = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    data = safetensors_bytes(weights, weight_record(spec))
    replace_file(path, lambda file: file.write(data))
    return hashlib.sha256(data).hexdigest()


def _check_best(run: Path, best: Mapping[str, Any]) -> None:
    """Say so if the weights of the best epoch are no longer what was written."""
    path = run / _BEST
    if "sha256" not in best:  # no evaluation, or an older kdcache
        return
    try:
        if hashlib.sha256(plain_bytes(path)).hexdigest() == best["sha256"]:
            return
        fault = "has other bytes than were written"
    except FileNotFoundError:
        fault = "is gone"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    kept = f"the weights of epoch {best['epoch'] + 1} are lost, those of the last epoch are there"
    say(f"note: {path} {fault}: {kept}")


def _say_epoch(line: dict[str, Any], epochs: int) -> None:
    scores = {
        "top-1": "top1",
        "mIoU": "miou",
        "of the average": "ema_top1",
        "mIoU of the average": "ema_miou",
    }
    told = "".join(f", {name} {line[key]:.2f} %" for name, key in scores.items() if key in line)
    say(
        f"epoch {line['epoch']}/{epochs}: loss {line['loss']:.4f}{told},"
        f" {line['views_per_second']:.0f} views/s"
    )


def _result(
    config: TrainConfig, trainer: Trainer, best: dict[str, Any], lines: list[dict[str, Any]]
) -> dict[str, Any]:
    epochs = [line for line in lines if line["kind"] == "epoch"]
    last = epochs[-1] if epochs else {}  # none if the file was lost
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
        **(_best_lines(task.best, best) if scores else {}),
        "train_loss": last.get("loss"),
        "seconds": sum(line["seconds"] for line in epochs),
        "views_per_second": (
            float(np.median([line["views_per_second"] for line in epochs])) if epochs else None
        ),
        "peak_memory": trainer.compute.peak_memory(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _best_lines(score: str, best: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best score of a run, and the epoch, counted from 1, and the weights that it is
    of."""
    return {
        f"best_{score}": best[score],
        "best_epoch": best["epoch"] + 1,
        "best_weights": best["weights"],
    }
