"""How time and memory grow, tenfold by tenfold, with rows, seeds, classes, ranks and workers.

    python benchmarks/curves.py [--plot curves.png] [--most N] [--check] [--json]

Caches are simulated (`simulated.py`): real manifests and commits, thin units, in a local folder.
Each action begins with a cache that was just opened, in a process of its own: its processor time
(`cpu`), its time by the clock, by how much its memory grew at most (memory maps included), and what
it would ask of a bucket. Images are not part of any.

    open         the manifest
    plan         which units a worker of a dump has to make: the last of them
    info         what `kdcache info` tells
    follow       a look of `kdcache info --follow`
    verify       `kdcache verify`: all units
    first batch  commits of a seed, the order of an epoch, two windows of four units, 256 views
                 decoded
    epoch        the slab of a seed made, every view gathered and decoded to probabilities; of
                 several ranks what the first one does

The exponent is that of the last step: 1 is linear. --check exits with 1 if one of time or memory is
above 1.2, where it is large enough to be told from noise.
"""

import argparse
import gc
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measure import make_parser, report
from simulated import Size, open_counted, simulate

from kdcache.cache import Cache
from kdcache.codec_error.plot import check_plot
from kdcache.dump.shares import all_units, helping_order, not_committed, share
from kdcache.loader.order import Blocks, EpochSampler, Split, epoch_views
from kdcache.loader.slab_reader import SlabReader
from kdcache.loader.window_reader import WindowReader
from kdcache.tools.info import Follower, describe
from kdcache.verify.cache import verify_cache

WINDOW = 4
BATCH = 256
TAU = 4.0
SEED = 1
LINEAR = 1.2
"""The exponent that --check allows."""
LEAST_SECONDS = 0.1
LEAST_MEGABYTES = 50.0
COLOURS = {  # of Okabe and Ito
    "open": "#000000",
    "plan": "#e69f00",
    "info": "#56b4e9",
    "follow": "#cc79a7",
    "verify": "#009e73",
    "first batch": "#0072b2",
    "epoch": "#d55e00",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where an action is measured."""

    size: Size
    ranks: int = 1


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What grows, by which steps, and what is measured there."""

    point: Callable[[int], Point]
    values: Sequence[int]
    actions: Sequence[str]
    fixed: str
    """What does not grow."""
    most: dict[str, int] = field(default_factory=dict)
    """Values up to which an action is measured, where more would take too long."""


ALL = ("open", "plan", "info", "verify", "first batch", "epoch")
LARGE = Size(rows=1_400_000, seeds=2)
SMALL = Size(rows=14_000, seeds=2, unit_rows=8192)
AXES = {
    "rows": Axis(
        point=lambda rows: Point(size=replace(LARGE, rows=rows)),
        values=(14_000, 140_000, 1_400_000, 14_000_000),
        actions=ALL,
        most={"epoch": 1_400_000},
        fixed="2 seeds, 1,000 classes",
    ),
    "seeds": Axis(
        point=lambda seeds: Point(size=replace(SMALL, seeds=seeds)),
        values=(10, 100, 1000),
        actions=ALL,
        fixed="14,000 rows",
    ),
    "classes": Axis(
        point=lambda classes: Point(size=replace(SMALL, classes=classes)),
        values=(100, 1000, 10_000),
        actions=ALL,
        fixed="14,000 rows, top 10",
    ),
    "ranks": Axis(
        point=lambda ranks: Point(size=LARGE, ranks=ranks),
        values=(1, 10, 100, 1000),
        actions=("first batch", "epoch"),
        fixed="1.4 M rows, one rank of N",
    ),
    "workers": Axis(
        point=lambda workers: Point(size=replace(SMALL, seeds=500, workers=workers)),
        values=(1, 10, 100, 1000),
        actions=("plan", "follow"),
        fixed="1,000 units, one worker of N",
    ),
}


def plan(cache: Cache, point: Point) -> object:
    """Return the units of the last worker, and in which order it helps with the rest."""
    job: Any = SimpleNamespace(seeds=range(point.size.seeds))
    units = all_units(job, cache)
    last = point.size.workers - 1
    own = share(units, last, point.size.workers)
    return own, helping_order(not_committed(cache, units), last, point.size.workers)


def first_batch(cache: Cache, point: Point) -> object:
    """Return the soft targets of the first batch of an epoch of a rank."""
    manifest = cache.manifest
    blocks = Blocks(length=manifest.rows, unit_rows=manifest.unit_rows, window=WINDOW)
    reader = WindowReader(cache)
    reader.start([SEED], [])
    views = _views(cache, blocks)
    reader.open_epoch(blocks.windows(0, 0), int(views[0, 0]))
    sampler = EpochSampler(_split(cache, point))
    sampler.set_epoch(views, before=reader.before)
    batch = np.array(next(iter(sampler)))
    logits = cache.codec.decode(reader.gather(batch[:, 0], batch[:, 1])).logits()
    reader.close()
    return logits, cache.order[batch[:, 0]]


def epoch(cache: Cache, point: Point) -> object:
    """Decode each batch of an epoch of a rank."""
    reader = SlabReader(cache)
    reader.start([SEED], [])
    sampler = EpochSampler(_split(cache, point))
    sampler.set_epoch(_views(cache, None))
    for request in sampler:
        batch = np.array(request)
        probs = cache.codec.decode(reader.gather(batch[:, 0], batch[:, 1])).probs(TAU)
    return probs


def _split(cache: Cache, point: Point) -> Split:
    """Return how steps are divided: 256 views a rank, or as many as there are for each."""
    batch = min(BATCH, cache.manifest.rows // point.ranks)
    return Split(batch_size=batch * point.ranks, processes=point.ranks)


def _views(cache: Cache, blocks: Blocks | None) -> np.ndarray:
    rows = cache.manifest.rows
    order = {"run_seed": 0, "epoch": 0, "blocks": blocks}
    return epoch_views(np.arange(rows), rows, [SEED], cache.recipe, **order)


ACTIONS: dict[str, Callable[[Cache, Point], object]] = {
    "open": lambda cache, point: cache.manifest,
    "plan": plan,
    "info": lambda cache, point: describe(cache),
    "follow": lambda cache, point: Follower(cache).look(),
    "verify": lambda cache, point: _verified(cache),
    "first batch": first_batch,
    "epoch": epoch,
}


def _verified(cache: Cache) -> object:
    result = verify_cache(cache)
    assert not result["faults"], result["faults"][:2]
    return result


def measured(path: Path, action: str, point: Point) -> dict[str, Any]:
    """Return what an action takes in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(path, action, point, sender))
    process.start()
    sender.close()
    result: dict[str, Any] = receiver.recv()
    process.join()
    return result


def _run(path: Path, action: str, point: Point, sender: Connection) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as home:
        os.environ["KDCACHE_HOME"] = home  # slabs of this process only
        gc.freeze()  # what was inherited is not gone through again
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        held = _memory("VmHWM")
        wall = time.perf_counter()
        cpu = _processor_time()
        cache, requests = open_counted(path)
        ACTIONS[action](cache, point)
        result = {
            "seconds": time.perf_counter() - wall,
            "cpu": _processor_time() - cpu,
            "megabytes": (_memory("VmHWM") - held) / 1024,
            "requests": dict(requests),
        }
    sender.send(result)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory(name: str) -> int:
    """Return a line of this process's status, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def measure(axis: Axis, most: int, repetitions: int) -> dict[str, dict[int, Any]]:
    """Return, by action and value, what it takes: the fastest of some repetitions."""
    results: dict[str, dict[int, Any]] = {action: {} for action in axis.actions}
    for value in axis.values:
        if value > most:
            continue
        point = axis.point(value)
        with tempfile.TemporaryDirectory() as folder:
            path = simulate(Path(folder) / "cache", point.size)
            for action in axis.actions:
                if value > axis.most.get(action, value):
                    continue
                runs = [measured(path, action, point) for _ in range(repetitions)]
                results[action][value] = min(runs, key=lambda run: run["cpu"])
    return results


def exponent(points: dict[int, Any], key: str, least: float) -> float | None:
    """Return the exponent of the last step; None where what was measured is too little for one."""
    if len(points) < 2:
        return None
    (smaller, before), (larger, after) = sorted(points.items())[-2:]
    if after[key] < least:
        return None
    return math.log(after[key] / max(before[key], 1e-6)) / math.log(larger / smaller)


def exponents(points: dict[int, Any]) -> dict[str, float | None]:
    """Return the exponents of time and memory."""
    return {
        "cpu": exponent(points, "cpu", LEAST_SECONDS),
        "megabytes": exponent(points, "megabytes", LEAST_MEGABYTES),
    }


def draw(curves: dict[str, Any], path: str) -> None:
    """Draw a panel for each axis: time above, memory below, both logarithmic."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(3.1 * len(curves) + 0.6, 6.2), layout="constrained")
    panels = figure.subplots(2, len(curves), sharex="col", sharey="row", squeeze=False)
    for column, (name, of_axis) in enumerate(curves.items()):
        for row, (key, floor) in enumerate((("cpu", 1e-3), ("megabytes", 0.1))):
            panel = panels[row, column]
            for action, points in of_axis["actions"].items():
                values = [max(point[key], floor) for point in points.values()]
                style = {"color": COLOURS[action], "marker": "o", "markersize": 4, "linewidth": 1.5}
                panel.plot([*points], values, **style)
            dress(panel)
        panels[0, column].set_title(AXES[name].fixed, fontsize=9, color="#555555")
        panels[1, column].set_xlabel(name, fontsize=11)
    panels[0, 0].set_ylabel("processor time, s")
    panels[1, 0].set_ylabel("memory, MB")
    for action, colour in COLOURS.items():
        panels[0, 0].plot([], [], color=colour, marker="o", markersize=4, label=action)
    panels[0, 0].plot([], [], color="#999999", linestyle=":", label="linear")
    for panel in panels.flat:
        guide(panel)
    figure.legend(loc="outside lower center", ncols=len(COLOURS) + 1, frameon=False)
    figure.savefig(path, dpi=130)


def dress(panel: Any) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.grid(True, which="major", linewidth=0.4, alpha=0.5)
    panel.spines[["top", "right"]].set_visible(False)


def guide(panel: Any) -> None:
    """Draw dotted lines of what grows linearly."""
    left, right = panel.get_xlim()
    bottom, top = panel.get_ylim()
    start = bottom
    while start < top:
        for shift in (left, left * 100):
            panel.plot(
                [shift, shift * top / bottom],
                [start, start * top / bottom],
                color="#999999",
                linestyle=":",
                linewidth=0.7,
                zorder=0,
            )
        start *= 100
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)


def main() -> None:
    parser = make_parser(__doc__, repetitions=2)
    parser.add_argument("--axes", nargs="+", choices=[*AXES], default=[*AXES])
    parser.add_argument("--most", type=int, default=10**9, help="of an axis")
    parser.add_argument("--plot", help="a picture of the curves, which takes kdcache[plot]")
    parser.add_argument("--check", action="store_true", help="exit with 1 if one is not linear")
    options: argparse.Namespace = parser.parse_args()
    if options.plot:
        check_plot(options.plot)
    torch.set_num_threads(1)
    curves: dict[str, Any] = {}
    lines: dict[str, Any] = {}
    for name in options.axes:
        actions = measure(AXES[name], options.most, options.repetitions)
        steps = {action: exponents(points) for action, points in actions.items()}
        curves[name] = {"actions": actions, "exponents": steps}
        for action, points in actions.items():
            lines[f"{name}: {action}"] = line_of(points, steps[action])
    if options.plot:
        draw(curves, options.plot)
    report({"benchmark": "curves", "axes": curves}, lines, as_json=options.json)
    if options.check and any(too_steep(of_axis) for of_axis in curves.values()):
        sys.exit(1)


def line_of(points: dict[int, Any], steps: dict[str, float | None]) -> str:
    parts = []
    for value, point in points.items():
        requests = sum(point["requests"].values())
        parts.append(
            f"{value:,}: {point['cpu']:.3g} s, {point['megabytes']:.3g} MB, {requests} requests"
        )
    for key, step in steps.items():
        if step is not None:
            parts.append(f"exponent of {key} {step:.2f}{' (steep)' if step > LINEAR else ''}")
    return "; ".join(parts)


def too_steep(of_axis: dict[str, Any]) -> bool:
    steps = [step for of_action in of_axis["exponents"].values() for step in of_action.values()]
    return any(step is not None and step > LINEAR for step in steps)


if __name__ == "__main__":
    main()
