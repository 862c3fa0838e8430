"""Training a student, from caches, with a teacher in the loop, or on labels only: a run from its
start or its last checkpoint to its result."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kdcache.config.files import dump_config
from kdcache.runtime.device import device_type
from kdcache.runtime.distributed import (
    broadcast_object,
    is_main,
    joined_processes,
    on_main,
    others_that_fail,
)
from kdcache.runtime.stopping import heeding
from kdcache.runtime.text_files import path_bytes
from kdcache.train.agreement import require_same_settings
from kdcache.train.checkpoint import replace_file
from kdcache.train.config import TrainConfig
from kdcache.train.keeper import Keeper, check_best, save_weights
from kdcache.train.metrics_log import BoardMetrics, Metrics, MetricsFile, NoMetrics, read_metrics
from kdcache.train.result import run_result, say_epoch
from kdcache.train.run_folder import (
    COMMAND,
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    check_folder,
    finished_result,
    last_checkpoint,
    own_folder,
)
from kdcache.train.trainer import Trainer

__all__ = ["TrainConfig", "Trainer", "train_student"]


def train_student(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the run's result; run again, it goes on from the last
    checkpoint.

    Under torchrun every process calls it. The run's folder holds `config.toml`, `metrics.jsonl`,
    `last.pt`, `best.safetensors` if there is evaluation data, and at the end `student.safetensors`,
    `ema.safetensors` if there is an average, and `result.json`.

    Returns:
        `run`, `epochs`, `steps`, the last `top1`, `top5` and `eval_loss` on the evaluation data (if
        there is any, and of the average after `ema_`; of segmentation `miou`, `pixel_accuracy`,
        `eval_loss` and each class's `iou/NAME`; of detection `ap`, `ap50`, `ap75` and each class's
        `ap/NAME`), `best_top1` (`best_miou`, `best_ap`) and `best_epoch` (from
        1), `train_loss`, when it was `finished`, `seconds` of training without evaluation,
        `views_per_second` in training, `peak_memory` in bytes.

    Raises:
        MismatchError: the run was started with other settings, or the data is not that of the
            cache.
        KdcacheError: bad input, missing or damaged units, a loss that is not finite.
    """
    run = Path(config.run)
    joined = joined_processes(device_type(config.compute.device))
    with joined, others_that_fail(), ExitStack() as stack:
        require_same_settings(config)
        result = on_main(lambda: finished_result(run, config))
        if result is not None:
            return result
        on_main(lambda: check_folder(run, config))
        trainer = Trainer(config)
        stack.callback(trainer.close)
        trainer.require_readable_evaluation()
        on_main(lambda: stack.enter_context(own_folder(run)))
        return _train(run, config, trainer)


def _train(run: Path, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """Train what is left of the run whose folder this process, or rank 0, holds."""
    checkpoint = on_main(lambda: last_checkpoint(run, config))
    best: dict[str, Any] = {trainer.task.best: -1.0}
    kept_step = None
    if checkpoint is not None:
        trainer.load_state(checkpoint)
        best = checkpoint["best"]
        kept_step = checkpoint["step"]
    metrics: Metrics = NoMetrics()
    if is_main():
        metrics = _start(run, config, trainer)
    keeper = Keeper(run, config.checkpoint_minutes, trainer, best, kept_step=kept_step)
    with heeding(keeper.keep):
        while not trainer.is_finished:
            line = trainer.run_epoch(metrics, keeper.after_step, keeper.before_evaluation)
            metrics.write(line)
            keeper.after_epoch(line)
            if is_main():
                say_epoch(line, config.epochs)
    result: dict[str, Any] = {}
    if is_main():
        result = _end(run, config, trainer, best)
    return broadcast_object(result, "the result")


def _start(run: Path, config: TrainConfig, trainer: Trainer) -> Metrics:
    """Write the run's configuration, and return where its metrics go. With both files there the
    folder is that of a run."""
    metrics = MetricsFile(run / METRICS_FILE, step=trainer.step, epochs=trainer.epochs_scored)
    text = path_bytes(dump_config(config, COMMAND))
    replace_file(run / CONFIG_FILE, lambda file: file.write(text))
    if not config.tensorboard:
        return metrics
    return BoardMetrics(run / "tensorboard", step=trainer.step, others=metrics)


def _end(run: Path, config: TrainConfig, trainer: Trainer, best: dict[str, Any]) -> dict[str, Any]:
    """Write the weights and the result of a run whose epochs are all trained, and return the
    result."""
    for name, module in trainer.weights().items():
        save_weights(run / f"{name}.safetensors", module, config.student)
    check_best(run, best)
    result = run_result(config, trainer, best, read_metrics(run / METRICS_FILE))
    text = json.dumps(result, indent=1)
    replace_file(run / RESULT_FILE, lambda file: file.write(text.encode()))
    return result
