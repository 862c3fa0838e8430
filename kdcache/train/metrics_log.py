"""The metrics of a run: lines of numbers, in a file and for TensorBoard."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kdcache.config.spec import parse_spec
from kdcache.config.user_functions import load_function
from kdcache.errors import KdcacheError
from kdcache.runtime.console import say
from kdcache.runtime.image_items import described
from kdcache.runtime.user_code import user_code
from kdcache.runtime.wording import named
from kdcache.train.checkpoint import replace_file, what_is_kept
from kdcache.train.metrics_reading import parsed_metrics

OnMetrics = Callable[[dict[str, Any]], object]
"""Is called with each line of metrics: `run`, `kind` (`step` or `epoch`), `step`, `epoch`, and the
numbers by name."""


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
            KdcacheError: tensorboard is not installed, or the folder cannot be written.
        """
        self._path = path
        self._others = others
        writer = summary_writer()
        if not isinstance(threading.excepthook, _ThreadErrors):
            threading.excepthook = _ThreadErrors(threading.excepthook)
        with _told_of(path):
            self._writer = writer(str(path), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the line's numbers, below its kind.

        Raises:
            KdcacheError: the disk is full, or the folder cannot be written.
        """
        self._others.write(line)
        with _told_of(self._path):
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
            self._writer.flush()


class _ThreadErrors:
    """Says what ends a thread, but for those that TensorBoard writes in: `flush` raises it again,
    and a traceback would stand beside the line of the command."""

    def __init__(self, others: Callable[[threading.ExceptHookArgs], object]) -> None:
        """Take what says it of all other threads."""
        self._others = others

    def __call__(self, failure: threading.ExceptHookArgs) -> None:
        """Say what ended a thread."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._others(failure)


class CalledMetrics:
    """Lines that are given to functions of the user's, besides another place."""

    def __init__(self, functions: Sequence[OnMetrics], run: str, *, others: Metrics) -> None:
        """Take the functions.

        Args:
            functions: each is called with a dictionary: the line, and `run`.
            run: folder of the run.
            others: where lines go first.
        """
        self._functions = functions
        self._run = run
        self._others = others

    def write(self, line: Mapping[str, Any]) -> None:
        """Call the functions.

        Raises:
            KdcacheError: one of them raises something.
        """
        self._others.write(line)
        for function in self._functions:
            way_out = f"mend it; {what_is_kept(Path(self._run))}"
            with user_code("on_metrics", KdcacheError, way_out=way_out):
                function({"run": self._run, **line})


def metrics_function(text: str) -> OnMetrics:
    """Return what the user's function gives that a spec names.

    Raises:
        UsageError: there is no such function, or it takes no such options.
        KdcacheError: it raises something, or gives nothing that can be called.
    """
    spec = parse_spec(text)
    function = load_function(spec, "on_metrics", (), error=KdcacheError)
    if not callable(function):
        raise KdcacheError(
            f"on_metrics {text} gives {described(function)}; it must give a function that is called"
            " with each line of metrics"
        )
    called: OnMetrics = function
    return called


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
        with _told_of(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Have an error of writing metrics name the file or folder in the run's, and the way out."""
    try:
        yield
    except OSError as error:
        way_out = f"{what_is_kept(path.parent)}: make room and run again"
        reason = error.strerror or error
        raise KdcacheError(f"cannot write {path}: {reason}; {way_out}") from error


def _is_of_the_past(line: Mapping[str, Any], step: int, epochs: int | None) -> bool:
    """Return whether a line is of a step up to `step` and, if it is of an epoch, of one of the
    first `epochs`."""
    if line["step"] > step:
        return False
    if epochs is None or line.get("kind") != "epoch":
        return True
    return bool(line["epoch"] <= epochs)
