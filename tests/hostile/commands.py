"""Every command on a hostile cache, in a process of its own, so that the memory which it takes is
that of the command."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from click.testing import CliRunner

from kdcache_cli.commands import main

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_SLEEP = time.sleep
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
T = TypeVar("T")
_LOOP_SECONDS = 0.1
"""What the loop of `_slowness` takes of an idle core."""
STUDENT = (
    "--student",
    "tiny_models:mlp,mean=0.5,std=0.5,classes=5",
    "--epochs",
    "1",
    "--batch-size",
    "8",
)
DATA = "tiny_models:noise,length=20,classes=5,size=8"


def peak(*, anew: bool = False) -> int:
    """Return the most memory that this process had, in bytes; with `anew` since now. Only Linux
    tells."""
    if not _RESET.exists():
        return 0
    if anew:
        _RESET.write_text("5")
    found = _PEAK.search(_STATUS.read_text())
    assert found
    return int(found[1]) * 1024


class Cost(NamedTuple):
    """What a call took beyond what was there before."""

    memory: int
    """Bytes at its highest."""
    seconds: float
    """Of the processor: others on this machine take time, too."""

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.0f} MB, {self.seconds:.3f} s"


def measured(call: Callable[[], T]) -> tuple[T, Cost]:
    """Return what a call gives, and what it costs."""
    before, start = peak(anew=True), time.process_time()
    given = call()
    seconds = time.process_time() - start
    cost = Cost(peak() - before, seconds / _slowness() if seconds > 1 else seconds)
    return given, cost


def _slowness() -> float:
    """Return how many times as long as on the machine of the limits this one takes now, at least
    1: what others do on a core takes from it, which the time of the processor does not show."""
    start = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number * number
    return max(1.0, (time.process_time() - start) / _LOOP_SECONDS)


def print_peaks() -> None:
    """Print as JSON what is measured before 100 MB are taken, and of taking them."""
    before = peak(anew=True)
    _, cost = measured(lambda: len(bytearray(b"1") * 10**8))
    sys.stdout.write(json.dumps([before, cost.memory, peak(anew=True)]))


def commands(cache: Path, store: str) -> dict[str, list[str]]:
    """Return the words of each command, by name; what some write lies beside the cache."""
    beside, path = cache.parent, str(cache)
    keys = beside / "keys.txt"
    keys.write_text("a/1\n")
    train = [
        "train-student",
        str(beside / "run"),
        "--cache",
        path,
        *STUDENT,
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    return {
        "info": ["info", path],
        "info, as JSON": ["info", path, "--json"],
        "info, following": ["info", path, "--follow"],
        "verify": ["verify", path],
        "verify, views": ["verify", path, "--views", "2"],
        "verify, teacher": [
            "verify",
            path,
            "--teacher",
            "tiny_models:conv,mean=0.5,std=0.5,classes=5",
        ],
        "show": ["show", path, "--view", "3:0", "-o", str(beside / "view.png")],
        "train-student": train,
        "train-student, evaluating": [*train, "--eval-data", DATA],
        "train-student, partial": [*train, "--on-miss", "skip"],
        "export": ["export", path, str(beside / "whole")],
        "export, samples": ["export", path, str(beside / "some"), "--samples", "0:4"],
        "export, keys": ["export", path, str(beside / "named"), "--samples", str(keys)],
        "convert": [
            "convert",
            path,
            str(beside / "other"),
            "--store",
            "zarr" if store == "webdataset" else "webdataset",
        ],
        "merge": ["merge", str(beside / "merged"), path],
        "recode": ["recode", path, str(beside / "recoded"), "--codec", "topk:k=1"],
        "push": ["push", path, "hf://datasets/lab/cache"],
        "gc": ["gc", path],
        "gc, deleting": ["gc", path, "--older-than", "0s", "--delete"],
    }


def run(cache: Path, store: str, left_out: Collection[str] = ()) -> None:
    """Run every command but some, and print as JSON what came of each."""
    time.sleep = _interrupted  # a dump that is followed goes on for ever
    found = {}
    for name, words in commands(cache, store).items():
        if name in left_out:
            continue
        done, cost = measured(partial(CliRunner().invoke, main, words))
        found[name] = {
            "code": done.exit_code,
            "out": done.stdout[:100_000],
            "err": done.stderr,
            "raised": None if done.exception is None else type(done.exception).__name__,
            "megabytes": round(cost.memory / 1e6),
            "seconds": round(cost.seconds, 2),
        }
    sys.stdout.write(json.dumps(found))


def _interrupted(seconds: float) -> None:
    if threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
    _SLEEP(seconds)


def wrong(
    name: str, told: dict[str, Any], *, most_megabytes: int, most_seconds: float
) -> str | None:
    """Return what a command did that no hostile cache should make it do, or None."""
    lines = [line for line in told["err"].splitlines() if line.startswith("kdcache: error: ")]
    checks: dict[str, Callable[[], bool]] = {
        "raised": lambda: told["raised"] in (None, "SystemExit"),
        "a traceback": lambda: "Traceback" not in told["err"] + told["out"],
        "several lines": lambda: len(lines) <= 1,
        "no line": lambda: told["code"] in (0, 130) or len(lines) == 1 or name.startswith("verify"),
        "a long line": lambda: all(len(line) <= 500 for line in told["err"].splitlines()),
        "memory": lambda: told["megabytes"] < most_megabytes,
        "time": lambda: told["seconds"] < most_seconds,
    }
    return next((what for what, is_right in checks.items() if not is_right()), None)
