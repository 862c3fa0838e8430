"""Training students, from caches, with a teacher in the loop, or on labels only: runs from their
start or their last checkpoint to their result."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdcache.config.files import dump_config
from kdcache.errors import KdcacheError
from kdcache.runtime.console import each_once, say
from kdcache.runtime.device import named_device
from kdcache.runtime.distributed import (
    broadcast_object,
    is_main,
    joined_processes,
    on_main,
    others_that_fail,
    world_size,
)
from kdcache.runtime.stopping import heeding
from kdcache.runtime.text_files import path_bytes
from kdcache.runtime.wording import counted
from kdcache.train.agreement import require_same_settings
from kdcache.train.batch_size import part_that_fits, with_batch_size
from kdcache.train.checkpoint import replace_file
from kdcache.train.config import TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.divergence import DivergenceNote
from kdcache.train.keeper import Keeper, check_best, save_weights
from kdcache.train.metrics_log import (
    BoardMetrics,
    CalledMetrics,
    Metrics,
    MetricsFile,
    NoMetrics,
    OnMetrics,
    metrics_function,
)
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.one_pass import require_one_pass
from kdcache.train.outlook import Outlook
from kdcache.train.overview import overview, run_names
from kdcache.train.result import run_result, say_epoch
from kdcache.train.run_files import COMMAND, CONFIG_FILE, METRICS_FILE, RESULT_FILE
from kdcache.train.run_folder import finished_result, last_checkpoint, own_folder, say_finished
from kdcache.train.run_settings import check_folder, with_student_spec
from kdcache.train.side_by_side import StudentRun, train_epochs
from kdcache.train.trainer import Trainer

__all__ = ["TrainConfig", "Trainer", "train_student", "train_students"]


def train_student(config: TrainConfig, *, on_metrics: OnMetrics | None = None) -> dict[str, Any]:
    """Train as configured and return the run's result; run again, it goes on from the last
    checkpoint.

    Under torchrun every process calls it. The run's folder holds `config.toml`, `metrics.jsonl`,
    `last.pt`, `best.safetensors` if there is evaluation data, and at the end `student.safetensors`,
    `ema.safetensors` if there is an average, and `result.json`.

    Args:
        config: of the run.
        on_metrics: is called with each line of metrics, a dictionary: `run`, `kind` (`step` or
            `epoch`), `step`, `epoch`, and the numbers by name. Of several processes the first calls
            it.

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
    return train_students([config], on_metrics=on_metrics)[0]


def train_students(
    configs: Sequence[TrainConfig], *, on_metrics: OnMetrics | None = None
) -> list[dict[str, Any]]:
    """Train students side by side over the same views, and return the result of each run; run
    again, all go on from their last checkpoints.

    Views are rendered once for all. Each run's folder is what it would be alone, but for times and
    memory, which are those of all together. One that fails leaves the others running, where there
    is one process.

    Args:
        configs: of the runs, each in a folder of its own. What decides the views is the same in
            all: data, caches, seeds, `batch_size`, `order_seed` and so on. Models (but for
            classification of one input size), losses, run seeds, optimisers and schedules are
            their own.
        on_metrics: see `train_student`; `run` tells whose a line is.

    Returns:
        Of each run what `train_student` returns.

    Raises:
        UsageError: settings that cannot be those of one pass.
        MismatchError: a run was started with other settings, or the data is not that of the cache.
        KdcacheError: bad input, missing or damaged units; a run has failed, when the others are
            finished.
    """
    require_one_pass(configs)
    configs = [with_student_spec(config) for config in configs]
    first = configs[0]
    part = part_that_fits(configs)
    joined = joined_processes(named_device(first.compute.device))
    with joined, others_that_fail(), ExitStack() as stack:
        results: dict[str, dict[str, Any]] = {}
        open_configs = []
        for config in configs:
            require_same_settings(config)
        configs = with_batch_size(configs, part)
        for config in configs:
            result = on_main(partial(finished_result, Path(config.run), config))
            if result is None:
                open_configs.append(config)
            else:
                results[config.run] = result
        if results:
            on_main(partial(say_finished, list(results.values()), len(configs)))
        if open_configs:
            results |= _train(open_configs, stack, on_metrics)
        return [results[config.run] for config in configs]


def _train(
    configs: Sequence[TrainConfig], stack: ExitStack, on_metrics: OnMetrics | None
) -> dict[str, dict[str, Any]]:
    """Train what is left of some runs, and return their results by folder; the stack closes what
    was opened."""
    with each_once():
        for config in configs:
            on_main(partial(check_folder, Path(config.run), config))
    for line in overview(configs):
        say(line)
    with each_once():
        data = TrainingData(configs)
        stack.callback(data.close)
        trainers = [Trainer(config, data) for config in configs]
        data.require_readable_evaluation()
    for config in configs:
        folder = own_folder(Path(config.run))
        on_main(partial(stack.enter_context, folder))
    outlook = Outlook()
    names = run_names(configs)
    kept_runs = []
    for trainer, name in zip(trainers, names, strict=True):
        kept_runs.append(_opened(trainer, outlook, on_metrics, name=name))
    with heeding(partial(_keep, kept_runs)):
        train_epochs([kept.run for kept in kept_runs], outlook)
    results = {}
    for kept in kept_runs:
        result: dict[str, Any] = {}
        if is_main() and kept.run.error is None:
            result = _end(kept)
        results[kept.trainer.config.run] = broadcast_object(result, "the result")
    _raise_failures(kept_runs)
    return results


@dataclass(frozen=True)
class _KeptRun:
    """A run whose folder this process, or rank 0, holds."""

    run: StudentRun
    keeper: Keeper
    best: dict[str, Any]
    """The best epoch so far."""

    @property
    def trainer(self) -> Trainer:
        return self.run.trainer


def _opened(
    trainer: Trainer, outlook: Outlook, on_metrics: OnMetrics | None, *, name: str
) -> _KeptRun:
    """Return a run that goes on from its last checkpoint, if it has one, and tells how long the
    rest takes; `name` sets it apart from others, if there are any."""
    config = trainer.config
    folder = Path(config.run)
    checkpoint = on_main(lambda: last_checkpoint(folder, config))
    best: dict[str, Any] = {trainer.task.best: -1.0}
    kept_step = None
    if checkpoint is not None:
        trainer.load_state(checkpoint)
        best = checkpoint["best"]
        kept_step = checkpoint["step"]
    metrics: Metrics = NoMetrics()
    if is_main():
        metrics = _start(folder, config, trainer, on_metrics, name=name)
    keeper = Keeper(folder, config.checkpoint_minutes, trainer, best, kept_step=kept_step)

    def after_epoch(line: Mapping[str, Any]) -> None:
        keeper.after_epoch(line)
        if is_main():
            say_epoch(line, config.epochs, of=name, left=outlook.text())

    run = StudentRun(
        trainer,
        metrics,
        after_step=keeper.after_step,
        before_evaluation=keeper.before_evaluation,
        after_epoch=after_epoch,
        # several processes would have to agree on it first
        leaves_others=bool(name) and world_size() == 1,
    )
    return _KeptRun(run, keeper, best)


def _keep(kept_runs: Sequence[_KeptRun]) -> str:
    """Keep the last step of each run that has not failed; return how a message tells it."""
    text = ""
    for kept in kept_runs:
        if kept.run.error is None:
            text = kept.keeper.keep()
    return text


def _raise_failures(kept_runs: Sequence[_KeptRun]) -> None:
    """Raise a KdcacheError that names the runs that have failed, if any has."""
    failures = []
    for kept in kept_runs:
        if kept.run.error is not None:
            failures.append(f"run {kept.trainer.config.run}: {kept.run.error}")
    if failures:
        count = f"{len(failures)} of {counted(len(kept_runs), 'run')} failed"
        if len(failures) < len(kept_runs):
            count += ", the others are finished"
        raise KdcacheError(f"{count}; {'; '.join(failures)}")


def _start(
    run: Path, config: TrainConfig, trainer: Trainer, on_metrics: OnMetrics | None, *, name: str
) -> Metrics:
    """Write the run's configuration, and return where its metrics go. With both files there the
    folder is that of a run."""
    functions = []
    if config.on_metrics is not None:
        functions.append(metrics_function(config.on_metrics))
    if on_metrics is not None:
        functions.append(on_metrics)
    metrics: Metrics = MetricsFile(
        run / METRICS_FILE, step=trainer.step, epochs=trainer.epochs_scored
    )
    text = path_bytes(dump_config(config, COMMAND))
    replace_file(run / CONFIG_FILE, lambda file: file.write(text))
    if config.tensorboard:
        metrics = BoardMetrics(run / "tensorboard", step=trainer.step, others=metrics)
    if functions:
        metrics = CalledMetrics(functions, config.run, others=metrics)
    past = read_metrics(run / METRICS_FILE)
    return DivergenceNote(past, of=name, rate=config.optimizer.lr, others=metrics)


def _end(kept: _KeptRun) -> dict[str, Any]:
    """Write the weights and the result of a run whose epochs are all trained, and return the
    result."""
    trainer = kept.trainer
    config = trainer.config
    folder = Path(config.run)
    record = trainer.weight_record()
    for name, module in trainer.weights().items():
        save_weights(folder / f"{name}.safetensors", module, record)
    check_best(folder, kept.best)
    lines = read_metrics(folder / METRICS_FILE)
    result = run_result(config, trainer, kept.best, lines)
    text = json.dumps(result, indent=1)
    replace_file(folder / RESULT_FILE, lambda file: file.write(text.encode()))
    return result
