"""How a dump comes on, in words: a line of a log, or the screen of a terminal."""

import time
from typing import TYPE_CHECKING

from kdcache.errors import printable
from kdcache.runtime.wording import counted, human_seconds, percent_done

if TYPE_CHECKING:
    from kdcache.dump.worker_status import Worker
    from kdcache.tools.info import Progress

_MAP_LINES = 16
_WORKER_LINES = 12
_LOST_NAMES = 3  # in a line of a log
_NAME_WIDTH = 36


def log_line(state: "Progress") -> str:
    """Return the line of a log on a dump."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{now} {_counted(state)}, {_at_work(state)}{_lost_text(state)}"


def _lost_text(state: "Progress") -> str:
    """Return the names of the first workers that are lost, in brackets; nothing without any."""
    names: list[str] = []
    for worker in state.workers:
        if worker.is_lost:
            age = human_seconds(worker.last_seen)
            names.append(f"{_short_name(worker)}, last seen {age} ago")
    if not names:
        return ""
    if len(names) > _LOST_NAMES:
        names[_LOST_NAMES:] = ["..."]
    return f" ({'; '.join(names)})"


def screen_lines(state: "Progress", width: int) -> list[str]:
    """Return the lines that a terminal of so many columns shows of a dump."""
    lines = [_counted(state), _at_work(state), *_worker_lines(state.workers)]
    screen = [line[:width] for line in lines]
    units_by_seeds = state.lines(max(width - 16, 10), _MAP_LINES)
    margin = 0
    for seeds, _ in units_by_seeds:
        margin = max(margin, len(seeds))
    for seeds, units in units_by_seeds:
        screen.append(f"seed {seeds:>{margin}} {units}")
    return screen


def _worker_lines(workers: "list[Worker]") -> list[str]:
    """Return a table of the workers, those that are lost first if there is no room for all."""
    if not workers:
        return []
    shown_workers = workers
    if len(workers) > _WORKER_LINES:
        shown_workers = sorted(workers, key=lambda worker: not worker.is_lost)[: _WORKER_LINES - 1]
    names = [_short_name(worker) for worker in shown_workers]
    width = max(map(len, [*names, "worker"]))
    lines = [f"{'worker':<{width}} units/min  views/s   last seen"]
    for worker, name in zip(shown_workers, names, strict=True):
        pace = f"{_number(worker.units_per_minute):>9} {_number(worker.views_per_second):>8}"
        line = f"{name:<{width}} {pace} {human_seconds(worker.last_seen):>11}"
        if worker.is_lost:
            line += "  lost"
        lines.append(line)
    if len(workers) > len(shown_workers):
        lines.append(f"and {len(workers) - len(shown_workers)} more; --json lists all")
    return lines


def _short_name(worker: "Worker") -> str:
    """Return how a line names a worker: by its rank and host, without a rank by host and
    process."""
    writer = worker.writer
    name = writer.host or "unknown"
    if writer.rank is not None:
        name = f"rank {writer.rank} on {name}"
    elif writer.process is not None:
        name = f"{name}:{writer.process}"
    name = printable(name)
    if len(name) > _NAME_WIDTH:
        return f"{name[: _NAME_WIDTH - 3]}..."
    return name


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 100:
        return f"{value:.1f}"
    return f"{value:.0f}"


def _counted(state: "Progress") -> str:
    done = state.coverage.units_done
    total = state.coverage.units_asked
    outlook = "none of late"
    if state.seconds_left and state.rate:
        outlook = f"{60 * state.rate:.1f} a minute, {human_seconds(state.seconds_left)} left"
    elif state.is_complete:
        outlook = "complete"
    return f"{done}/{total} units ({percent_done(done, total)}), {outlook}"


def _at_work(state: "Progress") -> str:
    num_lost = sum(worker.is_lost for worker in state.workers)
    text = counted(len(state.workers) - num_lost, "worker")
    if state.is_complete:
        text += " seen of late"
    else:
        text += " at work"
    if num_lost:
        text += f", {num_lost} lost"
    return text
