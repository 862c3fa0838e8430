"""What a training would take, from a few steps of it."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.runtime.console import steady_rate
from kdcache.runtime.device import device_type
from kdcache.runtime.distributed import (
    broadcast_object,
    joined_processes,
    on_main,
    others_that_fail,
)
from kdcache.train.agreement import require_same_settings
from kdcache.train.config import TrainConfig
from kdcache.train.run_folder import check_folder, last_checkpoint
from kdcache.train.trainer import Trainer

PLAN_SECONDS = 10.0


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
    with joined, others_that_fail(), ExitStack() as stack:
        require_same_settings(config)
        on_main(lambda: check_folder(run, config))
        checkpoint = on_main(lambda: last_checkpoint(run, config))
        trainer = Trainer(config)
        stack.callback(trainer.close)
        trainer.require_readable_evaluation()
        probe = probed_steps(trainer, seconds=PLAN_SECONDS)
        epochs_done = 0
        if checkpoint is not None:
            epochs_done = checkpoint["epoch"]
        epoch_seconds = probe["steps_per_epoch"] * config.batch_size / probe["views_per_second"]
        return {
            **_data_facts(trainer),
            **_model_facts(trainer),
            "epochs": config.epochs,
            "epochs_done": epochs_done,
            "seeds": trainer.loader.replay.seeds,
            **probe,
            "epoch_seconds": epoch_seconds,
            "seconds": (config.epochs - epochs_done) * epoch_seconds,
            "peak_memory": trainer.compute.peak_memory(),
            "slab_bytes": _slab_bytes(trainer),
        }


def probed_steps(trainer: Trainer, *, seconds: float) -> dict[str, Any]:
    """Train a few steps of an epoch to see how long they take; the trainer is of no use
    afterwards.

    Returns:
        `steps_per_epoch`, `views_per_second`, and `data_share`, the share of the time that was
        spent waiting for views.
    """
    trainer.start_epoch()
    clock = trainer.tally.clock
    times = [time.monotonic()]
    for parts in trainer.batches():
        float(trainer.train_step(parts)["loss"])  # waits for the device
        times.append(time.monotonic())
        if len(times) == 2:
            clock.restart()  # the first step waits for loader workers, and compiles
        if len(times) > 3 and broadcast_object(times[-1] - times[0] > seconds):
            break
    loader = trainer.loader
    num_views = min(loader.views_per_step, len(loader.source))
    data_share = 0.0
    if len(times) > 2:
        data_share = clock.parts.get("data_seconds", 0.0) / clock.total()
    return {
        "steps_per_epoch": loader.num_steps,
        "views_per_second": steady_rate(times, [num_views] * (len(times) - 1)),
        "data_share": data_share,
    }


def _data_facts(trainer: Trainer) -> dict[str, Any]:
    """Return how many samples and classes there are to train and to evaluate on."""
    replay = trainer.loader.replay
    eval_samples = None
    if trainer.evaluation is not None:
        eval_samples = len(trainer.evaluation.source)
    return {
        "samples": len(replay.source),
        "classes": replay.source.classes,
        "samples_trained": len(replay.rows(np.empty(0, np.int64))),
        "eval_samples": eval_samples,
    }


def _model_facts(trainer: Trainer) -> dict[str, Any]:
    """Return which models take part, and how large the student and its input are."""
    config = trainer.config
    return {
        "student": config.student,
        "teacher": ", ".join(config.caches) or config.teacher or "none: labels only",
        "parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
        "size": trainer.student.preprocessing.size,
    }


def _slab_bytes(trainer: Trainer) -> int:
    """Return how large the slabs of a seed are, over all caches."""
    total = 0
    for use in trainer.loader.replay.caches:
        manifest = use.cache.manifest
        total += manifest.rows * manifest.dtype.itemsize
    return total
