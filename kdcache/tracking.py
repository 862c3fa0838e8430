"""What a user watches: a progress bar or, in a job's log, one line every 30 seconds; and the metrics file."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from kdcache.checkpoint import replace_file
from kdcache.errors import KdcacheError
from kdcache.launch import own_place

LINE_SECONDS = 30.0
T = TypeVar("T")
_END = object()


@runtime_checkable
class Bar(Protocol):
    """Counts work that is done."""

    def advance(self, count: int, note: str = "") -> None:
        """Add `count`, and show `note` beside the bar."""


@contextmanager
def progress(title: str, total: int, unit: str, *, is_shown: bool = True) -> Iterator[Bar]:
    """Show how far `total` has come, if it is to be shown: a bar on a terminal, else a line on stderr every 30 seconds."""
    if not is_shown:
        yield _Nothing()
        return
    if not sys.stderr.isatty():
        yield _Lines(title, total, unit)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        yield _Rich(bars, bars.add_task(title, total=total, note=""))


def say(message: str, *, by_all: bool = False) -> None:
    """Print a message for the user on stderr, of several processes in rank 0 or `by_all`; stdout is for results."""
    if by_all or own_place().rank == 0:
        print(message, file=sys.stderr, flush=True)


@runtime_checkable
class Metrics(Protocol):
    """Takes lines of metrics."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line."""


class NoMetrics:
    """For the processes of a run that write nothing."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Forget the line."""


class BoardMetrics:
    """Lines as scalars for TensorBoard, besides another place."""

    def __init__(self, path: Path, *, step: int, others: Metrics) -> None:
        """Write below `path`; what is there past `step` is not shown any more.

        Raises:
            KdcacheError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        except ImportError as error:
            raise KdcacheError("tensorboard is not installed; pip install 'kdcache[tensorboard]', or leave it out") from error
        self._others = others
        self._writer = SummaryWriter(str(path), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the line's numbers, below its kind."""
        self._others.write(line)
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        self._writer.flush()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, a line per logged step and per epoch."""

    def __init__(self, path: Path, *, step: int, epoch: int | None = None) -> None:
        """Open for appending; what a run wrote that was cut off after its checkpoint is dropped.

        Args:
            path: the file.
            step: lines of steps past it are dropped.
            epoch: lines of this epoch and of those after it are dropped: they are to come.

        Raises:
            KdcacheError: the file cannot be written.
        """
        self._path = path
        lines = [line for line in read_metrics(path) if line["step"] <= step]
        if epoch is not None:
            lines = [line for line in lines if line["kind"] != "epoch" or line["epoch"] < epoch]
        kept = "".join(json.dumps(line) + "\n" for line in lines)
        replace_file(path, lambda file: file.write(kept.encode()))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            KdcacheError: the disk is full, or the file cannot be written.
        """
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise KdcacheError(
                f"cannot write {self._path}: {error.strerror}; the last checkpoint is kept: make room and run again"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that was cut off is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class Clock:
    """Seconds since it was made, and of them those spent in named parts."""

    def __init__(self, *, total: float = 0.0, **parts: float) -> None:
        """Start, after `total` seconds, and in each of `parts` those given, that an earlier clock has counted."""
        self._start = time.monotonic() - total
        self.parts: dict[str, float] = parts

    def restart(self) -> None:
        """Count from now on, as if nothing had been."""
        self._start, self.parts = time.monotonic(), {}

    def total(self) -> float:
        """Return the seconds since the clock was made."""
        return time.monotonic() - self._start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context as part `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - start

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, counting the time that each takes to come as part `name`."""
        iterator = iter(items)
        while True:
            with self.part(name):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]


def steady_rate(times: Sequence[float], counts: Sequence[int]) -> float:
    """Return counts per second, from the start and the time at which each batch of that many was done.

    The first batch also waits for loader workers to start, and the last one waits for no other's.
    """
    if len(counts) < 3:
        return sum(counts) / (times[-1] - times[0])
    return sum(counts[1:-1]) / (times[-2] - times[1])


class _Nothing:
    def advance(self, count: int, note: str = "") -> None:
        pass


class _Lines:
    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done, self._start = 0, time.monotonic()
        self._last = self._start

    def advance(self, count: int, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < LINE_SECONDS or not self._done:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        say(f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.0f}/s, {left:.0f} s left {note}".rstrip())


class _Rich:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars, self._task = bars, task

    def advance(self, count: int, note: str = "") -> None:
        self._bars.update(self._task, advance=count, note=note)
