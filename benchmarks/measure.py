"""Measuring on a noisy machine: variants take turns in one run, and only ratios of neighbours are
reported."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.cache import library_versions

Times = np.ndarray
"""Seconds, `[repetitions, 2]`: wall clock, and processor time of all threads of this process."""
CLOCKS = ("wall", "cpu")


def make_parser(doc: str | None, *, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks take."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repetitions", type=int, default=repetitions, help="runs of each variant that count"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def interleave(
    variants: Mapping[str, Callable[[int], object]],
    repetitions: int,
    *,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Times]:
    """Return the times of each variant; a repetition runs all of them, the next one in reverse
    order.

    A variant is called with the number of the repetition, and before it, untimed, what `before` has
    for it. Repetition 0 is a warm-up and is not reported.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    names = list(variants)
    for repetition in range(repetitions + 1):
        for name in names if repetition % 2 else names[::-1]:
            if before and name in before:
                before[name]()
            wall = time.perf_counter()
            cpu = time.process_time()
            variants[name](repetition)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(pairs[1:]) for name, pairs in times.items()}


def forget(path: Path) -> None:
    """Have the page cache forget a file, or all files of a folder, so that the next read is one of
    the disk."""
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds_per_call(call: Callable[[], object], calls: int) -> float:
    """Return the mean time of `calls` calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the bytes that a call allocates at most at once."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    held = 0
    most = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return `median`, `min` and `max`."""
    return {
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }


def spreads(times: Times) -> dict[str, dict[str, float]]:
    """Return the spread of each clock, or of ratios of two variants, which are taken repetition by
    repetition."""
    return {clock: spread(times[:, column]) for column, clock in enumerate(CLOCKS)}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    model = [
        line.split(":", 1)[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model[0] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": library_versions(),
    }


def report(result: Mapping[str, Any], rows: Mapping[str, Any], *, as_json: bool) -> None:
    """Print `result` with the machine as JSON, or `rows` one to a line."""
    where = machine()
    if as_json:
        print(json.dumps({**result, "machine": where}, indent=1))
        return
    for name, value in rows.items():
        print(f"{name:<44} {value_text(value)}")
    device = where["gpu"] or where["cpu"]
    print(
        f"({where['date']}, {device}, {where['cores']} cores, {where['torch_threads']} torch"
        " threads)"
    )


def value_text(value: Any) -> str:
    if isinstance(value, Mapping) and "wall" in value:
        return f"{value_text(value['wall']):<34} processor time {value_text(value['cpu'])}"
    if isinstance(value, Mapping) and "median" not in value:
        return ", ".join(f"{name} {value_text(part)}" for name, part in value.items())
    if isinstance(value, Mapping):
        return f"{value['median']:.4g}  ({value['min']:.4g} to {value['max']:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
