"""The metrics of a run: lines of numbers, in a file and for TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kdcache.errors import KdcacheError
from kdcache.runtime.console import say
from kdcache.runtime.wording import named
from kdcache.train.checkpoint import replace_file, what_is_kept
from kdcache.train.metrics_reading import parsed_metrics


@runtime_checkable
class Metrics(Protocol):
    """Takes lines of metrics."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line."""


class NoMetrics:
    """For the processes of a run that write nothing."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Forget the line."""


def summary_writer() -> Any:
    """Return the class that writes for TensorBoard.

    Raises:
        KdcacheError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        way_out = "pip install 'kdcache[tensorboard]', or leave it out"
        raise KdcacheError(f"tensorboard is not installed; {way_out}") from error
    return SummaryWriter


class BoardMetrics:
    """Lines as scalars for TensorBoard, besides another place."""

    def __init__(self, path: Path, *, step: int, others: Metrics) -> None:
        """Write below `path`; what is there past `step` is not shown any more.

        Raises:
            KdcacheError: tensorboard is not installed.
        """
        self._others = others
        self._writer = summary_writer()(str(path), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the line's numbers, below its kind."""
        self._others.write(line)
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        self._writer.flush()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, a line per logged step and per epoch."""

    def __init__(self, path: Path, *, step: int, epochs: int | None = None) -> None:
        """Open for appending; what a run wrote that was cut off after its checkpoint is dropped,
        and so is what is damaged.

        Args:
            path: the file.
            step: lines of steps past it are dropped.
            epochs: how many epochs are trained and evaluated; lines of later ones are dropped: they
                are to come.

        Raises:
            KdcacheError: the file cannot be read or written.
        """
        self._path = path
        lines, damaged = parsed_metrics(path)
        if damaged:
            be = "is" if len(damaged) == 1 else "are"
            say(f"note: {path}: {named(damaged, 'line')} cannot be read, and {be} left out")
        text = ""
        for line in lines:
            if _is_of_the_past(line, step, epochs):
                text += json.dumps(line) + "\n"
        replace_file(path, lambda file: file.write(text.encode()))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            KdcacheError: the disk is full, or the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            way_out = f"{what_is_kept(self._path.parent)}: make room and run again"
            raise KdcacheError(f"cannot write {self._path}: {error.strerror}; {way_out}") from error


def _is_of_the_past(line: Mapping[str, Any], step: int, epochs: int | None) -> bool:
    """Return whether a line is of a step up to `step` and, if it is of an epoch, of one of the
    first `epochs`."""
    if line["step"] > step:
        return False
    if epochs is None or line.get("kind") != "epoch":
        return True
    return bool(line["epoch"] <= epochs)
