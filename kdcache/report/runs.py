"""Runs as their folders tell them: settings, epochs, result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.config.files import load_config
from kdcache.errors import UsageError
from kdcache.train.config import TrainConfig
from kdcache.train.metrics_reading import read_metrics, read_result
from kdcache.train.run_files import COMMAND, CONFIG_FILE, METRICS_FILE, RESULT_FILE

Numbers = Mapping[str, float]
_PLACES = ("step", "epoch", "lr", "seed")
"""Numbers of an epoch that say where it is, and are no measurement."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, finished or not."""

    folder: Path
    config: TrainConfig
    epochs: Mapping[int, Numbers]
    """What was measured, by the epoch, from 1."""
    parts: Sequence[str]
    """The names of the terms that its loss is the sum of."""
    result: Mapping[str, Any] | None
    """None of a run that is not finished."""

    @property
    def repeat(self) -> tuple[int, int]:
        """The run seed, and the seed of the order of samples: what sets repeats apart."""
        return self.config.run_seed, self.config.order

    @property
    def last(self) -> Numbers:
        """The numbers of its last epoch; nothing before its first one ends."""
        if not self.epochs:
            return {}
        return self.epochs[max(self.epochs)]

    def number(self, name: str) -> float | None:
        """Return a number of the result; None if there is none of that name."""
        if self.result is None:
            return None
        return _finite(self.result.get(name))


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Return the runs in some folders, and those in the folders that these hold.

    Raises:
        UsageError: a folder that is no run and holds none, a run that is given twice, or settings
            that cannot be read.
        KdcacheError: metrics that cannot be read.
    """
    folders: list[Path] = []
    for path in paths:
        folders += _run_folders(Path(path))
    places: set[Path] = set()
    for folder in folders:
        if folder.resolve() in places:
            raise UsageError(f"run {folder} is given twice; give it once")
        places.add(folder.resolve())
    return [_read_run(folder) for folder in folders]


def _run_folders(folder: Path) -> list[Path]:
    if (folder / CONFIG_FILE).is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"run {folder} is not a folder; give the folder of a run")
    inner_folders: list[Path] = []
    for inner in sorted(folder.iterdir()):
        if (inner / CONFIG_FILE).is_file():
            inner_folders.append(inner)
    if not inner_folders:
        raise UsageError(
            f"{folder} is no run and holds none: there is no {CONFIG_FILE}; give the folder of a"
            " run, or of several"
        )
    return inner_folders


def _read_run(folder: Path) -> Run:
    file = str(folder / CONFIG_FILE)
    try:
        config = load_config(TrainConfig, COMMAND, file=file, flags={}, is_ours=True)
    except UsageError as error:
        raise UsageError(f"run {folder}: {error}; leave it out, or restore the file") from error
    lines = read_metrics(folder / METRICS_FILE)
    epochs: dict[int, Numbers] = {}
    for line in lines:
        if line.get("kind") == "epoch":
            epochs[int(line.get("epoch", 0))] = _numbers(line)
    result = None
    if (folder / RESULT_FILE).is_file():
        result = read_result(folder / RESULT_FILE)
    return Run(
        folder=folder,
        config=config,
        epochs=dict(sorted(epochs.items())),
        parts=_parts(lines, epochs),
        result=result,
    )


def _numbers(line: Mapping[str, Any]) -> Numbers:
    """Return what an epoch's line measures."""
    numbers: dict[str, float] = {}
    for name, value in line.items():
        number = _finite(value)
        if number is not None and name not in _PLACES:
            numbers[name] = number
    return numbers


def _parts(lines: Sequence[Mapping[str, Any]], epochs: Mapping[int, Numbers]) -> list[str]:
    """Return the names of the terms of the loss.

    A line of an epoch tells them after the loss and before the times. A line of a step has no
    times and no scores.
    """
    names: list[str] = []
    for numbers in epochs.values():
        for name in numbers:
            if name == "seconds":
                break
            if name != "loss" and name not in names:
                names.append(name)
    if names:
        return names
    for line in lines:
        for name in _numbers(line):
            if name != "loss" and name not in names:
                names.append(name)
    return names


def _finite(value: Any) -> float | None:
    """Return a number as it is; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)
