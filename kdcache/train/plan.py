"""What a training would take, from a few steps of it."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.runtime.console import each_once, steady_rate
from kdcache.runtime.device import named_device
from kdcache.runtime.distributed import (
    broadcast_object,
    joined_processes,
    on_main,
    others_that_fail,
)
from kdcache.train.agreement import require_same_settings
from kdcache.train.batch_size import part_that_fits, with_batch_size
from kdcache.train.config import TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.one_pass import require_one_pass
from kdcache.train.run_folder import last_checkpoint
from kdcache.train.run_settings import check_folder, with_student_spec
from kdcache.train.side_by_side import (
    batches_of_steps,
    own_parts,
    placed_parts,
    start_epoch,
)
from kdcache.train.trainer import Trainer

PLAN_SECONDS = 10.0


def plan_training(configs: Sequence[TrainConfig]) -> dict[str, Any]:
    """Return what the training of students side by side would take, or of one, from a few steps of
    it; nothing is written but slabs.

    Returns:
        How many `runs`, `samples` and `classes` of the source, how many `samples_trained` on,
        `eval_samples` (None without evaluation), `student` and `teacher` (specs, or the caches'),
        `parameters` of all students and input `sizes`, `epochs`, `epochs_done` by all,
        `steps_per_epoch`, `seeds`, `views_per_second`, `data_share` (of the time, spent waiting for
        views), `epoch_seconds` and `seconds` of what is left, without evaluation, `peak_memory` in
        bytes, and the `slab_bytes` of a seed.

    Raises:
        KdcacheError: whatever would stop the training before or in its first steps.
    """
    require_one_pass(configs)
    configs = [with_student_spec(config) for config in configs]
    part = part_that_fits(configs)
    joined = joined_processes(named_device(configs[0].compute.device))
    with joined, others_that_fail(), ExitStack() as stack:
        configs = with_batch_size(configs, part)
        config = configs[0]
        epochs_done = min(_epochs_done(config) for config in configs)
        with each_once():
            data = TrainingData(configs)
            stack.callback(data.close)
            trainers = [Trainer(config, data) for config in configs]
            data.require_readable_evaluation()
        probe = probed_steps(trainers, seconds=PLAN_SECONDS)
        epoch_seconds = probe["steps_per_epoch"] * config.batch_size / probe["views_per_second"]
        return {
            "runs": len(configs),
            **_data_facts(data),
            **_model_facts(trainers),
            "epochs": config.epochs,
            "epochs_done": epochs_done,
            "seeds": data.loader.replay.seeds,
            **probe,
            "epoch_seconds": epoch_seconds,
            "seconds": (config.epochs - epochs_done) * epoch_seconds,
            "peak_memory": data.compute.peak_memory(),
            "slab_bytes": _slab_bytes(data),
        }


def probed_steps(trainers: Sequence[Trainer], *, seconds: float) -> dict[str, Any]:
    """Train a few steps of an epoch to see how long they take; the trainers are of no use
    afterwards.

    Returns:
        `steps_per_epoch`, `views_per_second`, and `data_share`, the share of the time that was
        spent waiting for views.
    """
    first = trainers[0]
    start_epoch(trainers)
    times = [time.monotonic()]
    clock = first.tally.clock
    for parts in batches_of_steps(trainers):
        batch = list(placed_parts(trainers, parts))
        for trainer in trainers:
            float(trainer.train_step(own_parts(trainer, batch))["loss"])  # waits for the device
        times.append(time.monotonic())
        if len(times) == 2:
            clock.restart()  # the first step waits for loader workers, and compiles
        if len(times) > 3 and broadcast_object(times[-1] - times[0] > seconds):
            break
    loader = first.loader
    num_views = min(loader.views_per_step, len(loader.source))
    data_share = 0.0
    if len(times) > 2:
        data_share = clock.parts.get("data_seconds", 0.0) / clock.total()
    return {
        "steps_per_epoch": loader.num_steps,
        "views_per_second": steady_rate(times, [num_views] * (len(times) - 1)),
        "data_share": data_share,
    }


def _epochs_done(config: TrainConfig) -> int:
    """Return how many epochs a run has trained, whose folder is looked at."""
    require_same_settings(config)
    run = Path(config.run)
    on_main(lambda: check_folder(run, config))
    checkpoint = on_main(lambda: last_checkpoint(run, config))
    if checkpoint is None:
        return 0
    return int(checkpoint["epoch"])


def _data_facts(data: TrainingData) -> dict[str, Any]:
    """Return how many samples and classes there are to train and to evaluate on."""
    replay = data.loader.replay
    eval_samples = None
    if data.evaluation is not None:
        eval_samples = len(data.evaluation.source)
    return {
        "samples": len(replay.source),
        "classes": replay.source.classes,
        "samples_trained": len(replay.rows(np.empty(0, np.int64))),
        "eval_samples": eval_samples,
    }


def _model_facts(trainers: Sequence[Trainer]) -> dict[str, Any]:
    """Return which models take part, and how large the students and their input are."""
    config = trainers[0].config
    specs = dict.fromkeys(trainer.config.student for trainer in trainers)
    num_parameters = 0
    for trainer in trainers:
        num_parameters += sum(parameter.numel() for parameter in trainer.student.parameters())
    return {
        "student": ", ".join(specs),
        "teacher": ", ".join(config.caches) or config.teacher or "none: labels only",
        "parameters": num_parameters,
        "sizes": list(dict.fromkeys(trainer.size for trainer in trainers)),
    }


def _slab_bytes(data: TrainingData) -> int:
    """Return how large the slabs of a seed are, over all caches."""
    total = 0
    for use in data.loader.replay.caches:
        manifest = use.cache.manifest
        total += manifest.rows * manifest.dtype.itemsize
    return total
