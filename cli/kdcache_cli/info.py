"""The command `info`: what a cache holds, whether it is complete, and with --follow how the dump
into it comes on."""

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kdcache.errors import printable
from kdcache.runtime.wording import counted, human_bytes, human_seconds, percent_done
from kdcache_cli.options import JSON
from kdcache_cli.output import codec_error_text, coverage_lines, json_text, print_result

if TYPE_CHECKING:
    from kdcache.cache import Cache
    from kdcache.dump.worker_status import Worker
    from kdcache.tools.info import Progress

_TERMINAL_SECONDS = 2.0
_MAP_LINES = 16
_WORKER_LINES = 12
_NAME_WIDTH = 36


@click.command(
    short_help="Print what CACHE holds, whether it is complete, or how its dump comes on."
)
@click.argument("cache")
@click.option(
    "--follow",
    is_flag=True,
    help="Show the progress of the dump, by whatever workers, until it is complete.",
)
@click.option(
    "--complete",
    is_flag=True,
    help="Exit 0 only if all that it was asked to hold is there, else 1.",
)
@click.option(
    "--seeds",
    help="Seeds to follow or to look for  [all that it was asked to hold].",
    metavar="A:B",
)
@JSON
def info(cache: str, follow: bool, complete: bool, seeds: str | None, as_json: bool) -> None:
    """Print what CACHE holds; with --json the whole manifest.

    With --follow: units done, rate, time left, workers and a map of seeds and units on a terminal,
    else a line every 30 s. A cache that is not there yet is waited for. With --complete: one line,
    for a job that depends on the dump.
    """
    from kdcache.cache import open_cache
    from kdcache.errors import UsageError
    from kdcache.tools.info import describe, wait_for_cache

    if follow and complete:
        raise UsageError("--follow ends when all is there, --complete looks once; give one of them")
    if follow:
        _follow(wait_for_cache(cache, seconds=_TERMINAL_SECONDS), seeds=seeds, as_json=as_json)
    elif complete:
        _require_complete(open_cache(cache), seeds, as_json=as_json)
    elif seeds is not None:
        raise UsageError(
            "--seeds says which seeds --follow or --complete looks at; give one of them too"
        )
    else:
        result = describe(open_cache(cache))
        print_result(result, _info_lines(result), as_json=as_json)


def _require_complete(cache: "Cache", seeds: str | None, *, as_json: bool) -> None:
    from kdcache.tools.info import coverage_of_seeds, require_complete

    coverage = coverage_of_seeds(cache, seeds)
    if as_json:
        click.echo(json_text(coverage.to_json()))
    require_complete(cache, coverage)
    if not as_json:
        units = counted(coverage.units_asked, "unit")
        click.echo(f"cache {cache} is complete: {units} of {counted(len(coverage.seeds), 'seed')}")


def _follow(cache: "Cache", *, seeds: str | None, as_json: bool) -> None:
    from kdcache.runtime.console import LINE_SECONDS
    from kdcache.tools.info import follow

    if sys.stdout.isatty() and not as_json:
        _show(follow(cache, seeds, seconds=_TERMINAL_SECONDS))
        return
    for state in follow(cache, seeds, seconds=LINE_SECONDS):
        click.echo(json.dumps(state.to_json()) if as_json else _line(state))


def _show(states: "Iterator[Progress]") -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for state in states:
            live.update(Text("\n".join(_screen(state, console.width)), no_wrap=True), refresh=True)


def _line(state: "Progress") -> str:
    """Return the line of a log."""
    lost = [f"{_short_name(worker)}, {_ago(worker)}" for worker in state.workers if worker.is_lost]
    named = ""
    if lost:
        others = "; ..." if len(lost) > 3 else ""
        named = f" ({'; '.join(lost[:3])}{others})"
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{now} {_counted(state)}, {_at_work(state)}{named}"


def _screen(state: "Progress", width: int) -> list[str]:
    """Return the lines that a terminal shows."""
    lines = state.lines(max(width - 16, 10), _MAP_LINES)
    margin = max((len(seeds) for seeds, _ in lines), default=0)
    return [
        _counted(state)[:width],
        _at_work(state)[:width],
        *(line[:width] for line in _worker_lines(state.workers)),
        *(f"seed {seeds:>{margin}} {units}" for seeds, units in lines),
    ]


def _worker_lines(workers: "list[Worker]") -> list[str]:
    """Return a table of the workers, those that are lost first if there is no room for all."""
    if not workers:
        return []
    shown = workers
    if len(workers) > _WORKER_LINES:
        shown = sorted(workers, key=lambda worker: not worker.is_lost)[: _WORKER_LINES - 1]
    names = [_short_name(worker) for worker in shown]
    width = max(map(len, [*names, "worker"]))
    lines = [f"{'worker':<{width}} units/min  views/s   last seen"]
    for worker, name in zip(shown, names, strict=True):
        pace = f"{_number(worker.units_per_minute):>9} {_number(worker.views_per_second):>8}"
        lost = "  lost" if worker.is_lost else ""
        lines.append(f"{name:<{width}} {pace} {human_seconds(worker.last_seen):>11}{lost}")
    if len(workers) > len(shown):
        lines.append(f"and {len(workers) - len(shown)} more; --json lists all")
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
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _ago(worker: "Worker") -> str:
    return f"last seen {human_seconds(worker.last_seen)} ago"


def _counted(state: "Progress") -> str:
    done = state.coverage.units_done
    total = state.coverage.units_asked
    left = "complete" if state.is_complete else "none of late"
    if state.seconds_left and state.rate:
        left = f"{60 * state.rate:.1f} a minute, {human_seconds(state.seconds_left)} left"
    return f"{done}/{total} units ({percent_done(done, total)}), {left}"


def _at_work(state: "Progress") -> str:
    lost = sum(worker.is_lost for worker in state.workers)
    others = counted(len(state.workers) - lost, "worker")
    doing = "seen of late" if state.is_complete else "at work"
    text = f"{others} {doing}"
    return f"{text}, {lost} lost" if lost else text


def _info_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    manifest = result["manifest"]
    classes = counted(manifest["classes"], "class")
    error = codec_error_text(manifest["made_by"].get("gradient_error", {}))
    per_view = f", {result['bytes_per_view']:.1f} per view" if result["units"] else ""
    return [
        ("task", f"{manifest['task']}, {classes}{_maps_text(manifest)}"),
        ("source", _source_text(manifest)),
        *_subset_lines(manifest),
        ("recipe", f"{manifest['recipe']['name']} ({manifest['recipe']['fingerprint'][:12]})"),
        ("teacher", f"{manifest['teacher']['spec']} ({manifest['teacher']['sha256'][:12]})"),
        ("codec", result["codec"] + error),
        ("store", _store_text(manifest)),
        *coverage_lines(result),
        ("units", _units_text(result)),
        ("bytes", f"{human_bytes(result['bytes'])}{per_view}"),
        *_absent_lines(result),
        ("made", _made_text(manifest["made_by"])),
        *_origin_lines(manifest["made_by"]),
    ]


def _units_text(result: dict[str, Any]) -> str:
    done = result["units_done"]
    asked = result["units_asked"]
    share = str(done) if done == asked else f"{done} of {asked} ({percent_done(done, asked)})"
    return f"{share}, of {counted(result['manifest']['unit_rows'], 'row')} each"


def _store_text(manifest: dict[str, Any]) -> str:
    """Return how units are stored."""
    store = manifest.get("store", "zarr")
    if store != "webdataset":
        return str(store)
    images = ", with images" if manifest.get("has_images") else ""
    return f"{store}{images}, {counted(manifest.get('seeds_per_unit', 1), 'seed')} to a tar"


def _subset_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    part = manifest.get("samples")
    if not part:
        return []
    return [("samples", f"{part['count']:,} of {manifest['rows']:,}")]


def _absent_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    part = ""
    if result["absent_of"] < result["units"]:
        part = f" in {counted(result['absent_of'], 'unit')} that were looked at"
    if not result["absent"] and not part:
        return []
    return [("absent", f"{counted(result['absent'], 'view')} whose sample cannot be read{part}")]


def _made_text(made_by: dict[str, Any]) -> str:
    version = made_by.get("versions", {}).get("kdcache", "of an unknown version")
    return f"{made_by.get('created', 'at an unknown time')} with kdcache {version}"


def _maps_text(manifest: dict[str, Any]) -> str:
    """Return what maps or other positions a view has; nothing for classification."""
    if manifest.get("positions"):
        fields = {**manifest["positions"]}
        kind = fields.pop("kind")
        told = ", ".join(f"{name} {value}" for name, value in fields.items())
        return f", {kind} of {told}"
    if not manifest.get("sites"):
        return ""
    heads, height, width = manifest["sites"]
    maps = f"{height}x{width} maps of {heads} heads" if heads > 1 else f"a {height}x{width} map"
    return f", {maps} at stride {manifest['teacher']['stride']}"


def _origin_lines(made_by: dict[str, Any]) -> list[tuple[str, str]]:
    origin = made_by.get("recoded_from")
    if origin is None:
        return []
    error = codec_error_text(origin["made_by"].get("gradient_error", {}))
    return [("recoded", f"from {origin['codec']}{error}")]


def _source_text(manifest: dict[str, Any]) -> str:
    source = manifest["source"]
    digests = ", with content digests" if "contents" in source else ""
    return f"{source['spec']}, {manifest['rows']} samples{digests}"
