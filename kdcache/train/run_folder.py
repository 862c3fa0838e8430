"""The folder of a run: what it already holds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.config.files import parse_config
from kdcache.errors import MismatchError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.train.checkpoint import held_folder, load_checkpoint, make_folder, path_before
from kdcache.train.config import TrainConfig
from kdcache.train.differences import FREE, PLACES, may_extend, settings_differences
from kdcache.train.metrics_reading import is_of_epochs, read_metrics, read_result
from kdcache.train.run_files import (
    BEST_FILE,
    CHECKPOINT_FILE,
    COMMAND,
    METRICS_FILE,
    RESULT_FILE,
    STUDENT_FILE,
)
from kdcache.train.run_settings import is_run, saved_config

SETTINGS_KEY = "settings"
"""In a checkpoint: those of the run that it is of, as `config.toml` has them."""


def finished_result(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the result of the run if it has come to its end with this very configuration; there is
    nothing to open then."""
    if not (run / RESULT_FILE).exists() or not is_run(run):
        return None
    if settings_differences(saved_config(run), config, free=FREE):
        return None
    result = read_result(run / RESULT_FILE)
    if result is None:
        say(f"note: {run / RESULT_FILE} is damaged, and is written again")
        return None
    if not is_of_epochs(result, config.epochs):
        return None
    student = run / STUDENT_FILE
    if not student.is_file():
        say(f"note: {student} is gone, and is written again")
        return None
    if "best_epoch" in result and not (run / BEST_FILE).is_file():
        say(f"note: {run / BEST_FILE} is gone; {student} holds the weights of the last epoch")
    result["run"] = config.run  # it may have been moved or copied
    # of an older kdcache: it counted from 0
    if "finished" not in result and "best_epoch" in result:
        result["best_epoch"] += 1
    return result


def say_finished(results: Sequence[Mapping[str, Any]], num_runs: int) -> None:
    """Say that some of `num_runs` runs had come to their end before, and have these results."""
    way_out = "nothing was trained; a new run takes a new folder"
    if num_runs == 1:
        result = results[0]
        when = ""
        if "finished" in result:
            when = f" since {result['finished']}"
        say(f"note: run {result['run']} is finished{when}: this is its result, {way_out}")
    elif len(results) == num_runs:
        say(f"note: all {num_runs} runs are finished: these are their results, {way_out}")
    else:
        say(f"note: {len(results)} of {num_runs} runs are finished: for them {way_out}")


@contextmanager
def own_folder(run: Path) -> Iterator[None]:
    """Make the run's folder, and keep other processes out of it to the end of the block."""
    make_folder(run)
    with held_folder(run):
        yield


def last_checkpoint(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the run's last checkpoint, or None if it has none yet.

    Raises:
        KdcacheError: it is damaged.
        MismatchError: it is that of a run with other settings, or gone, and epochs were trained.
    """
    path = run / CHECKPOINT_FILE
    checkpoint = load_checkpoint(path, tell=say)
    if checkpoint is None:
        _require_no_epochs(run)
        return None
    text = checkpoint.get(SETTINGS_KEY)
    if text is None:  # of an older kdcache
        return checkpoint
    try:
        old_config = parse_config(TrainConfig, COMMAND, text)
    except UsageError:  # of another version, which had other settings
        return checkpoint
    free: tuple[str, ...] = FREE + PLACES
    if may_extend(old_config, config):
        free += ("epochs",)
    if lines := settings_differences(old_config, config, free=free):
        raise MismatchError(
            f"checkpoint {path} is that of another run ({joined(lines)}); restore this"
            " run's own from a copy, or choose a new folder"
        )
    return checkpoint


def _require_no_epochs(run: Path) -> None:
    """Check that a run without a checkpoint has trained no epoch, by its metrics."""
    num_epochs = 0
    for line in read_metrics(run / METRICS_FILE):
        num_epochs += line.get("kind") == "epoch"
    if num_epochs > 1:  # of the first one the checkpoint comes after the line
        path = run / CHECKPOINT_FILE
        raise MismatchError(
            f"run {run} has metrics of {num_epochs} epochs, and no checkpoint: {path} and"
            f" {path_before(path)} are gone; restore one of them, or choose a new folder"
        )
