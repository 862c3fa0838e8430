"""What a user watches: a progress bar or, in a job's log, one line every 30 seconds; and a
clock."""

import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any, Protocol, TypeVar, runtime_checkable

from kdcache.errors import printable
from kdcache.runtime.launch import own_place
from kdcache.runtime.wording import human_rate, human_seconds, wrapped_line

LINE_SECONDS = 30.0
_BAR_WIDTH = 20
"""Columns, so that all that is told beside it fits a terminal of 80."""
T = TypeVar("T")
_END = object()
_silences: list[bool] = []
"""One for each block in which nothing is said."""
_terminals: list[IO[str]] = []
"""Those that bars are drawn on where stderr is none; the last one counts."""
_said: ContextVar[set[str] | None] = ContextVar("messages that come once", default=None)


@runtime_checkable
class Bar(Protocol):
    """Counts work that is done."""

    def advance(self, count: int, note: str = "") -> None:
        """Add `count`, and show `note` beside the bar."""


@contextmanager
def progress(
    title: str,
    total: int,
    unit: str,
    *,
    is_shown: bool = True,
    who: str = "",
) -> Iterator[Bar]:
    """Show how far `total` has come: a bar on a terminal, else a line on stderr every 30 seconds.

    Args:
        title: what comes on.
        total: how many there are.
        unit: of what.
        is_shown: whether anything is shown.
        who: tells, of several workers that log side by side. Its lines say the time and who it is,
            and one more comes at the end. It gets a bar only if it is the one process there is.
    """
    if not is_shown:
        yield _Nothing()
        return
    console = _bar_console()
    if who and not (console is not None and own_place().world_size == 1):
        lines = _Lines(title, total, unit, who)
        yield lines
        lines.end()
        return
    if console is None:
        yield _Lines(title, total, unit)
        return
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        redirect_stdout=console.stderr,
        redirect_stderr=console.stderr,
    ) as bars:
        yield _Rich(bars, bars.add_task(title, total=total, note=""))


def draw_bars_on(terminal: IO[str]) -> None:
    """Draw the bars of this process on a terminal from now on, though its messages go elsewhere."""
    _terminals.append(terminal)


def _bar_console() -> Any:
    """Return rich's console of the terminal that bars are drawn on; None if there is none."""
    if not (sys.stderr.isatty() or _terminals):
        return None
    from rich.console import Console  # noqa: PLC0415

    if sys.stderr.isatty():
        return Console(stderr=True)
    terminal = _terminals[-1]
    # of some terminals it is 0: rich then takes 80
    width = os.get_terminal_size(terminal.fileno()).columns or None
    return Console(file=terminal, width=width)


@contextmanager
def each_once() -> Iterator[None]:
    """Run the block, in which `say` prints no message twice: several runs have the same notes."""
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)


def say(message: str, *, by_all: bool = False) -> None:
    """Print a message for the user on stderr, of several processes in rank 0 or `by_all`; stdout is
    for results."""
    if _silences:
        return
    messages = _said.get()
    if messages is not None:
        if message in messages:
            return
        messages.add(message)
    if by_all or own_place().rank == 0:
        text = wrapped_line(printable(message), on_terminal=sys.stderr.isatty())
        print(text, file=sys.stderr, flush=True)


@contextmanager
def nothing_said() -> Iterator[None]:
    """Say nothing in the block: what is done in it is done once more, and said then."""
    _silences.append(True)
    try:
        yield
    finally:
        _silences.pop()


def own_name() -> str:
    """Return how logs name this process, such as `rank 3 of 16 on n7`; nothing if it is alone."""
    place = own_place()
    if place.world_size == 1:
        return ""
    return f"rank {place.rank} of {place.world_size} on {socket.gethostname()}"


def log(who: str, text: str) -> None:
    """Print a line of a worker's log on stderr: the time, who tells, and what."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {who}: {text}", file=sys.stderr, flush=True)


class Clock:
    """Seconds since it was made, and of them those spent in named parts."""

    def __init__(self, *, total: float = 0.0, **parts: float) -> None:
        """Start, after `total` seconds, and in each of `parts` those given, that an earlier clock
        has counted."""
        self._start = time.monotonic() - total
        self.parts: dict[str, float] = parts

    def restart(self) -> None:
        """Count from now on, as if nothing had been."""
        self._start = time.monotonic()
        self.parts = {}

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
    """Return counts per second, from the start and the time at which each batch of that many was
    done.

    The first batch also waits for loader workers to start, and the last one waits for no other's.
    """
    if len(counts) < 3:
        return sum(counts) / (times[-1] - times[0])
    return sum(counts[1:-1]) / (times[-2] - times[1])


class _Nothing:
    def advance(self, count: int, note: str = "") -> None:
        pass


class _Lines:
    def __init__(self, title: str, total: int, unit: str, who: str = "") -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._who = who
        self._num_done = 0
        self._start = time.monotonic()
        self._last = self._start

    def advance(self, count: int, note: str = "") -> None:
        self._num_done += count
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        rate = self._num_done / (now - self._start)
        outlook = "no end in sight"
        # nothing may be done yet: what others did meanwhile is taken off without being counted
        if rate:
            outlook = f"{(self._total - self._num_done) / rate:.0f} s left"
        line = (
            f"{self._num_done}/{self._total} {self._unit}, {human_rate(rate)}/s, {outlook} {note}"
        )
        self._tell(line.rstrip())

    def end(self) -> None:
        """Tell that all is done, and how long it took."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        rate = f"{human_rate(self._num_done / seconds)}/s"
        count = f"{self._num_done}/{self._total} {self._unit}"
        self._tell(f"{count}, done in {human_seconds(seconds)}, {rate}")

    def _tell(self, text: str) -> None:
        if self._who:
            log(self._who, f"{self._title}: {text}")
        else:
            say(f"{self._title}: {text}")


class _Rich:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task

    def advance(self, count: int, note: str = "") -> None:
        self._bars.update(self._task, advance=count, note=note)
