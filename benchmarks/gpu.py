"""What a GPU makes of kdcache, in one command of at most eight minutes.

    python benchmarks/gpu.py [--device auto] [--seconds 420] [--json FILE] [--only NAME ...]

It needs nothing but kdcache and the files beside it. On a CPU it runs at small sizes in a minute or
two. A part that fails is told, the others go on, and the exit code is 1; parts for which there is
no time are named. With `--json` the file is written anew after each part.
"""

import argparse
import json
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import gpu_paths
import gpu_speed
import torch
from gpu_bench import SIZES, Bench, Row, Rows
from measure import machine, value_text

from kdcache.errors import one_line
from kdcache.runtime.device import device_type


@dataclass(frozen=True)
class Part:
    """A part of the benchmark, which gives the rows of a table."""

    name: str
    run: Callable[[Bench], Rows]
    seconds: float
    """Without as many left it is not begun."""


def parts_for(bench: Bench) -> list[Part]:
    """Return all parts; what says most comes first."""
    parts = [
        Part("device and CPU: codecs", gpu_paths.codecs, 15),
        Part("device and CPU: losses", gpu_paths.losses, 5),
        Part("device and CPU: tasks", gpu_paths.tasks, 40),
        Part("training steps of tasks", gpu_paths.task_steps, 15),
        Part("training steps", gpu_speed.training_steps, 45),
        Part("dumped batches", gpu_speed.dumped_batches, 30),
    ]
    for rows, classes in bench.sizes.shapes:
        name = f"losses, {rows:,} x {classes:,}"
        run = partial(gpu_speed.losses, rows=rows, classes=classes)
        parts.append(Part(name, run, 40))
    for model in bench.sizes.dumped:
        parts.append(Part(f"dump, {model}", partial(gpu_speed.dump, model=model), 45))
    parts.append(Part("epochs", gpu_speed.epochs, 90))
    parts.append(Part("ways to run a model", gpu_speed.ways, 30))
    if bench.sizes.compiles:
        parts.append(Part("torch.compile", partial(gpu_speed.ways, compiled=True), 60))
    return parts


AGAIN_SECONDS = 2.0


class OutOfTimeError(BaseException):
    """The time is up; nothing that catches errors may take it for one."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End the block after so many seconds, as soon as Python is at work."""

    def end(*_: Any) -> NoReturn:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, end)
    # again and again: an error that is raised in a destructor goes no further
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(part: Part, bench: Bench, seconds_left: float) -> dict[str, Any]:
    """Return what came of a part: its `status` with a `reason`, its `rows`, and its `seconds`."""
    rows: list[Row] = []
    outcome: dict[str, Any] = {"status": "done", "reason": "", "rows": rows, "seconds": 0.0}
    if seconds_left < min(part.seconds, bench.sizes.most_seconds):
        reason = f"it is given {part.seconds:.0f} s, and {max(seconds_left, 0):.0f} s are left"
        return outcome | {"status": "left out", "reason": reason}
    start = time.monotonic()
    try:
        with at_most(seconds_left):
            rows.extend(part.run(bench))  # those before an error stay
    except OutOfTimeError:
        outcome |= {"status": "left out", "reason": "the time was up in the middle of it"}
    except Exception as error:
        traceback.print_exc()
        outcome |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    faults = [row["fault"] for row in rows if row.get("fault")]
    if faults:
        outcome |= {"status": "failed", "reason": "; ".join(faults)}
    bench.tidy()
    outcome["seconds"] = time.monotonic() - start
    return outcome


def show(name: str, outcome: Mapping[str, Any]) -> None:
    """Print what came of a part."""
    print(f"\n## {name} ({outcome['seconds']:.1f} s)\n")
    if outcome["status"] != "done":
        print(f"{outcome['status'].upper()}: {one_line(outcome['reason'], 300)}\n")
    rows = outcome["rows"]
    if not rows:
        return
    names = [name for name in rows[0] if any(row[name] != "" for row in rows)]
    lines = [names, *([value_text(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(padded)} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--sizes", choices=SIZES, help="by default full on a GPU, and small on a CPU"
    )
    parser.add_argument("--seconds", type=float, default=420, help="that all of it may take")
    parser.add_argument("--threads", type=int, help="torch threads; by default 1 on a CPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts whose names begin so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all of it goes as data")
    return parser.parse_args()


def start_time() -> float:
    """Return when this process began, by the monotonic clock: imports take their time too."""
    status = Path("/proc/self/stat")
    if not status.exists():
        return time.monotonic()
    ticks = int(status.read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


def main() -> None:
    start = start_time()
    options = parse()
    kind = device_type(options.device)
    if options.threads or kind == "cpu":
        torch.set_num_threads(options.threads or 1)
    sizes = options.sizes or ("full" if kind == "cuda" else "small")
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "machine": {**machine(), "device": kind, "cuda": torch.version.cuda},
        "sizes": sizes,
        "seconds": options.seconds,
        "parts": {},
    }
    where = result["machine"]
    device = where["gpu"] if kind == "cuda" else where["cpu"]
    torch_version = where["versions"]["torch"]
    print(f"{where['date']}, {device}, {where['cores']} cores, torch {torch_version}, {sizes}")
    # the disk of the working folder: /tmp may be memory
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as folder:
        os.environ["KDCACHE_HOME"] = folder
        bench = Bench(Path(folder), options.device, SIZES[sizes])
        for part in parts_for(bench):
            if options.only and not part.name.startswith(tuple(options.only)):
                continue
            outcome = run_part(part, bench, start + options.seconds - time.monotonic())
            result["parts"][part.name] = outcome
            show(part.name, outcome)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1))
    sum_up(result["parts"], time.monotonic() - start)


def sum_up(parts: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
    """Print what was left out and what failed, and end with exit code 1 if something failed."""
    print(f"\n{len(parts)} parts in {seconds:.0f} s")
    for status in ("left out", "failed"):
        names = [name for name, outcome in parts.items() if outcome["status"] == status]
        if names:
            print(f"{status}: {', '.join(names)}")
    if any(outcome["status"] == "failed" for outcome in parts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
