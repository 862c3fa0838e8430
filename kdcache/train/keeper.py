"""When a checkpoint of a run is written, and with it the weights of the best epoch."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from kdcache.config.files import dump_config
from kdcache.runtime.console import say
from kdcache.runtime.distributed import is_main, on_main
from kdcache.runtime.files import plain_bytes
from kdcache.train.checkpoint import replace_file, save_checkpoint
from kdcache.train.run_files import BEST_FILE, CHECKPOINT_FILE, COMMAND
from kdcache.train.run_folder import SETTINGS_KEY
from kdcache.train.trainer import Trainer


class Keeper:
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
        """Begin the first pause.

        Args:
            run: the run's folder.
            minutes: between checkpoints inside an epoch.
            trainer: whose state is kept.
            best: the best epoch so far, which is added to.
            kept_step: the step of the checkpoint that is there, if there is one.
        """
        self._run = run
        self._trainer = trainer
        self._best = best
        self._pause = 60 * minutes
        self._last_time = time.monotonic()
        self._kept_step = kept_step

    def after_step(self) -> None:
        """Keep the step if the pause is over."""
        if is_main() and time.monotonic() - self._last_time >= self._pause:
            self._save()

    def before_evaluation(self) -> None:
        """Keep the epoch's last step: an evaluation may take long, be stopped, or fail."""
        if is_main() and self._trainer.evaluates(self._trainer.epoch):
            self._save()

    def after_epoch(self, line: Mapping[str, Any]) -> None:
        """Keep an epoch, and its weights if it is the best so far of those that were evaluated.

        Args:
            line: the epoch's metrics.
        """
        if not is_main():
            return
        score_name = self._trainer.task.best
        weights_name = _better_weights(line, score_name)
        if weights_name is not None:
            score = line[_SCORE_PREFIXES[weights_name] + score_name]
            if score > self._best[score_name]:
                self._keep_best(score_name, score, line["epoch"], weights_name)
        self._save()

    def keep(self) -> str:
        """Keep the last step, if it is not yet; return how a message tells it. All wait for it."""
        step = on_main(self._keep_step, "the checkpoint")
        if step is None:
            return " before the first step"
        return f" after step {step}, which is kept"

    def _keep_step(self) -> int | None:
        """Keep the last step, if it is not yet; return which one is kept."""
        if self._trainer.step and self._trainer.step != self._kept_step:
            self._save()
        return self._kept_step

    def _keep_best(self, score_name: str, score: float, epoch: int, weights_name: str) -> None:
        # checkpoints count epochs from 0, as they always have; what a user sees counts from 1
        self._best.update({score_name: score, "epoch": epoch - 1, "weights": weights_name})
        module = self._trainer.weights()[weights_name]
        record = self._trainer.weight_record()
        self._best["sha256"] = save_weights(self._run / BEST_FILE, module, record)

    def _save(self) -> None:
        settings = dump_config(self._trainer.config, COMMAND)
        state = {**self._trainer.state(), "best": self._best, SETTINGS_KEY: settings}
        save_checkpoint(self._run / CHECKPOINT_FILE, state)
        self._kept_step = self._trainer.step
        self._last_time = time.monotonic()


_SCORE_PREFIXES = {"student": "", "ema": "ema_"}
"""What names of scores begin with, by the weights that they are of."""


def _better_weights(line: Mapping[str, Any], score_name: str) -> str | None:
    """Return which weights score better in an epoch's metrics: the student's unless the average
    is above; None without scores."""
    better = None
    highest = 0.0
    for weights_name, prefix in _SCORE_PREFIXES.items():
        score = line.get(f"{prefix}{score_name}")
        if score is None:
            continue
        if better is None or score > highest:
            better = weights_name
            highest = score
    return better


def save_weights(path: Path, module: nn.Module, record: dict[str, str]) -> str:
    """Write the weights of a model with what is said of them, and return the digest of the file."""
    weights = {}
    for name, tensor in module.state_dict().items():
        # safetensors takes no tied weights
        weights[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    data = safetensors_bytes(weights, record)
    replace_file(path, lambda file: file.write(data))
    return hashlib.sha256(data).hexdigest()


def check_best(run: Path, best: Mapping[str, Any]) -> None:
    """Say so if the weights of the best epoch are no longer what was written."""
    path = run / BEST_FILE
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
    loss = f"the weights of epoch {best['epoch'] + 1} are lost, those of the last epoch are there"
    say(f"note: {path} {fault}: {loss}")
