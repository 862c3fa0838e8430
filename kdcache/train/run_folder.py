"""The folder of a run: whose run it is, and what it already holds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.config.files import load_config, parse_config
from kdcache.errors import MismatchError, UsageError
from kdcache.models.run_folders import model_spec
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.train.checkpoint import held_folder, load_checkpoint, make_folder, path_before
from kdcache.train.config import TrainConfig
from kdcache.train.differences import FREE, PLACES, may_extend, settings_differences
from kdcache.train.metrics_reading import is_of_epochs, read_metrics, read_result
from kdcache.train.preflight import require_writable
from kdcache.train.run_files import (
    BEST_FILE,
    CHECKPOINT_FILE,
    COMMAND,
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    STUDENT_FILE,
)

SETTINGS_KEY = "settings"
"""In a checkpoint: those of the run that it is of, as `config.toml` has them."""


def with_student_spec(config: TrainConfig) -> TrainConfig:
    """Return a configuration that names its student by a spec, not by the folder of another run,
    which may be gone when this one is resumed or evaluated.

    Raises:
        UsageError: there is no such folder, or it is no run.
        KdcacheError: that run has no weights yet.
    """
    return replace(config, student=model_spec(config.student))


def finished_result(run: Path, config: TrainConfig) -> dict[str, Any] | None:
    """Return the result of the run if it has come to its end with this very configuration; there is
    nothing to open then."""
    if not (run / RESULT_FILE).exists() or not _is_run(run):
        return None
    if settings_differences(_saved_config(run), config, free=FREE):
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


def batch_size_of(run: Path) -> int | None:
    """Return the batch size that a run was begun with; None of a folder that is no run's.

    Raises:
        UsageError: its settings are damaged.
    """
    if not _is_run(run):
        return None
    return chosen(_saved_config(run).batch_size)


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


def check_folder(run: Path, config: TrainConfig) -> None:
    """Check that the run's folder can be written, and is new, or was started so.

    Raises:
        MismatchError: it is that of a run with other settings.
        UsageError: it cannot be written, or is not empty and no run's.
    """
    require_writable(run, "run")
    if _is_run(run):
        saved_config = _saved_config(run)
        free: tuple[str, ...] = FREE + PLACES
        if may_extend(saved_config, config):
            free += ("epochs",)
            say(f"note: training is extended from {saved_config.epochs} to {config.epochs} epochs")
        if lines := settings_differences(saved_config, config, free=free):
            raise MismatchError(
                f"run {run} was started otherwise ({joined(lines)}); choose a new folder, or the"
                f" same settings{_advice_on_epochs(saved_config, config)}"
            )
    elif run.exists() and (not run.is_dir() or _holds_other_files(run)):
        raise UsageError(f"run {run} is not empty and not a run; choose a new folder")


def _is_run(run: Path) -> bool:
    """Return whether a folder is that of a run; a file `config.toml` alone may be a user's own."""
    if not (run / CONFIG_FILE).exists():
        return False
    return (run / METRICS_FILE).exists() or (run / CHECKPOINT_FILE).exists()


def _holds_other_files(run: Path) -> bool:
    """Return whether a folder holds more than a run that was killed in its first moment leaves: an
    empty file of metrics."""
    for path in run.iterdir():
        if path.name.startswith("."):
            continue
        if path != run / METRICS_FILE or path.stat().st_size > 0:
            return True
    return False


def _saved_config(run: Path) -> TrainConfig:
    """Return the settings in the run's folder.

    Raises:
        UsageError: the file is damaged.
    """
    file = str(run / CONFIG_FILE)
    try:
        return load_config(TrainConfig, COMMAND, file=file, flags={}, is_ours=True)
    except UsageError as error:
        raise UsageError(
            f"run {run}: its own {CONFIG_FILE} is damaged ({error}); restore it from a copy, or"
            " choose a new folder"
        ) from error


def _advice_on_epochs(saved_config: TrainConfig, config: TrainConfig) -> str:
    """Return why a run is not extended, if only that was wanted."""
    if config.epochs <= saved_config.epochs or config.schedule != saved_config.schedule:
        return ""
    return (
        f"; the rates of schedule {config.schedule.name} depend on the number of epochs: those of"
        " step, multistep and none do not"
    )


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
        saved_config = parse_config(TrainConfig, COMMAND, text)
    except UsageError:  # of another version, which had other settings
        return checkpoint
    free: tuple[str, ...] = FREE + PLACES
    if may_extend(saved_config, config):
        free += ("epochs",)
    if lines := settings_differences(saved_config, config, free=free):
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
