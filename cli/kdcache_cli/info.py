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
_LOST_NAMES = 3  # in a line of a log
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
    "--absent",
    is_flag=True,
    help="List why views are absent: samples that could not be read, or have no labels.",
)
@click.option(
    "--seeds",
    help="Seeds to follow or to look for  [all that it was asked to hold].",
    metavar="A:B",
)
@JSON
def info(
    cache: str,
    *,
    follow: bool,
    complete: bool,
    absent: bool,
    seeds: str | None,
    as_json: bool,
) -> None:
    """Print what CACHE holds; with --json the whole manifest.

    With --follow: units done, rate, time left, workers and a map of seeds and units on a terminal,
    else a line every 30 s. A cache that is not there yet is waited for. With --complete: one line,
    for a job that depends on the dump.
    """
    from kdcache.cache import open_cache
    from kdcache.errors import UsageError
    from kdcache.tools.info import describe, wait_for_cache

    if follow + complete + absent > 1:
        raise UsageError(
            "--follow ends when all is there, --complete looks once, --absent lists; give one of"
            " them"
        )
    if absent and seeds is not None:
        raise UsageError("--absent lists the views of all seeds; leave --seeds out")
    if absent:
        _list_absent(open_cache(cache), as_json=as_json)
    elif follow:
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


def _list_absent(cache: "Cache", *, as_json: bool) -> None:
    from kdcache.cache.absences import absent_reasons

    reasons = absent_reasons(cache)
    num_views = sum(reasons.values())
    lines = [("absent", f"{counted(num_views, 'view')} of cache {cache}")]
    for reason, count in reasons.items():
        lines.append((counted(count, "view"), reason))
    result = {"cache": str(cache), "absent": num_views, "reasons": dict(reasons)}
    print_result(result, lines, as_json=as_json)


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
        if as_json:
            click.echo(json.dumps(state.to_json()))
        else:
            click.echo(_line(state))


def _show(states: "Iterator[Progress]") -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for state in states:
            screen = "\n".join(_screen(state, console.width))
            live.update(Text(screen, no_wrap=True), refresh=True)


def _line(state: "Progress") -> str:
    """Return the line of a log."""
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


def _screen(state: "Progress", width: int) -> list[str]:
    """Return the lines that a terminal shows."""
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


def _info_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    manifest = result["manifest"]
    classes = counted(manifest["classes"], "class")
    error = codec_error_text(manifest["made_by"].get("gradient_error", {}))
    size = human_bytes(result["bytes"])
    if result["units"]:
        size += f", {result['bytes_per_view']:.1f} per view"
    return [
        ("task", f"{manifest['task']}, {classes}{_maps_text(manifest)}"),
        ("source", _source_text(manifest)),
        *_subset_lines(manifest),
        *_stored_views_lines(manifest),
        ("recipe", f"{manifest['recipe']['name']} ({manifest['recipe']['fingerprint'][:12]})"),
        ("teacher", f"{manifest['teacher']['spec']} ({manifest['teacher']['sha256'][:12]})"),
        ("codec", result["codec"] + error),
        ("store", _store_text(manifest)),
        *coverage_lines(result),
        ("units", _units_text(result)),
        ("bytes", size),
        *_absent_lines(result),
        ("made", _made_text(manifest["made_by"])),
        *_origin_lines(manifest["made_by"]),
    ]


def _units_text(result: dict[str, Any]) -> str:
    done = result["units_done"]
    total = result["units_asked"]
    share = str(done)
    if done != total:
        share = f"{done} of {total} ({percent_done(done, total)})"
    rows = counted(result["manifest"]["unit_rows"], "row")
    return f"{share}, of {rows} each"


def _store_text(manifest: dict[str, Any]) -> str:
    """Return how units are stored."""
    text = str(manifest.get("store", "zarr"))
    if text != "webdataset":
        return text
    if manifest.get("has_images"):
        text += ", with images"
    seeds = counted(manifest.get("seeds_per_unit", 1), "seed")
    return f"{text}, {seeds} to a tar"


def _subset_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    part = manifest.get("samples")
    if not part:
        return []
    return [("samples", f"{part['count']:,} of {manifest['rows']:,}")]


def _stored_views_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    views = manifest.get("views")
    if not views:
        return []
    return [("views", f"stored, of {counted(views['seeds'], 'seed')}")]


def _absent_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    is_partial = result["absent_of"] < result["units"]
    if not result["absent"] and not is_partial:
        return []
    views = counted(result["absent"], "view")
    text = f"{views} whose sample cannot be read"
    if result["manifest"].get("views"):
        text = f"{views} that have no labels"
    if is_partial:
        units = counted(result["absent_of"], "unit")
        text += f" in {units} that were looked at"
    return [("absent", f"{text}; --absent lists them")]


def _made_text(made_by: dict[str, Any]) -> str:
    version = made_by.get("versions", {}).get("kdcache", "of an unknown version")
    return f"{made_by.get('created', 'at an unknown time')} with kdcache {version}"


def _maps_text(manifest: dict[str, Any]) -> str:
    """Return what maps or other positions a view has; nothing for classification."""
    if manifest.get("positions"):
        return f", {_positions_text(manifest['positions'])}"
    if not manifest.get("sites"):
        return ""
    heads, height, width = manifest["sites"]
    maps = f"a {height}x{width} map"
    if heads > 1:
        maps = f"{height}x{width} maps of {heads} heads"
    return f", {maps} at stride {manifest['teacher']['stride']}"


def _positions_text(positions: dict[str, Any]) -> str:
    parts: list[str] = []
    for name, value in positions.items():
        if name != "kind" and value != "":
            parts.append(f"{name} {value}")
    return f"{positions['kind']} of {', '.join(parts)}"


def _origin_lines(made_by: dict[str, Any]) -> list[tuple[str, str]]:
    if imported := made_by.get("imported_from"):
        return [("imported", f"from labels of format {imported['format']}")]
    origin = made_by.get("recoded_from")
    if origin is None:
        return []
    error = codec_error_text(origin["made_by"].get("gradient_error", {}))
    return [("recoded", f"from {origin['codec']}{error}")]


def _source_text(manifest: dict[str, Any]) -> str:
    source = manifest["source"]
    text = f"{source['spec']}, {manifest['rows']} samples"
    if "contents" in source:
        text += ", with content digests"
    return text
