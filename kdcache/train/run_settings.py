"""The settings that a run was begun with, and whether it may go on with those of now; all of it
without torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdcache.config.files import load_config
from kdcache.errors import MismatchError, UsageError
from kdcache.models.run_folders import model_spec
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.runtime.files import require_writable_folder
from kdcache.sources import require_outside
from kdcache.train.config import TrainConfig
from kdcache.train.differences import FREE, PLACES, may_extend, settings_differences
from kdcache.train.optim import depends_on_end
from kdcache.train.run_files import CHECKPOINT_FILE, COMMAND, CONFIG_FILE, METRICS_FILE


def with_student_spec(config: TrainConfig) -> TrainConfig:
    """Return a configuration that names its student by a spec, not by the folder of another run,
    which may be gone when this one is resumed or evaluated.

    Raises:
        UsageError: there is no such folder, or it is no run.
        KdcacheError: that run has no weights yet.
    """
    return replace(config, student=model_spec(config.student))


def batch_size_of_runs(configs: Sequence[TrainConfig]) -> int | None:
    """Return the batch size that the first of some runs was begun with that is there already; None
    if none is.

    Raises:
        UsageError: its settings are damaged.
    """
    for config in configs:
        run = Path(config.run)
        if is_run(run):
            return chosen(saved_config(run).batch_size)
    return None


def check_folder(run: Path, config: TrainConfig) -> None:
    """Check that the run's folder can be written, and is new, or was started so.

    Raises:
        MismatchError: it is that of a run with other settings.
        UsageError: it cannot be written, is not empty and no run's, or would lie among the data.
    """
    require_writable_folder(run, "run")
    if is_run(run):
        old_config = saved_config(run)
        free: tuple[str, ...] = FREE + PLACES
        if may_extend(old_config, config):
            free += ("epochs",)
            say(f"note: training is extended from {old_config.epochs} to {config.epochs} epochs")
        if lines := settings_differences(old_config, config, free=free):
            raise MismatchError(
                f"run {run} was started otherwise ({joined(lines)}); choose a new folder, or the"
                f" same settings{_advice_on_epochs(old_config, config)}"
            )
    elif run.exists() and (not run.is_dir() or _holds_other_files(run)):
        raise UsageError(f"run {run} is not empty and not a run; choose a new folder")
    else:
        for data in (config.data, config.eval_data):
            require_outside(run, "run", data)


def is_run(run: Path) -> bool:
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


def saved_config(run: Path) -> TrainConfig:
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


def _advice_on_epochs(old_config: TrainConfig, config: TrainConfig) -> str:
    """Return why a run is not extended, if that was wanted, and how to go on without."""
    schedule = config.schedule
    if config.epochs <= old_config.epochs:
        return ""
    if schedule != old_config.schedule:
        return f"; for another schedule begin a new run with --student {old_config.run}"
    if not depends_on_end(schedule):
        return ""
    return (
        f"; the rates of schedule {schedule.name} depend on the number of epochs: those of"
        " constant, step, multistep and none do not, without noise"
    )
