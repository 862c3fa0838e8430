"""The command `info`: what a cache holds, and with --follow how the dump into it comes on."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kdcache.errors import brief, printable
from kdcache_cli.options import JSON
from kdcache_cli.output import codec_error_text, human_bytes, human_seconds, print_result, ranges

if TYPE_CHECKING:
    from kdcache.info import Progress

_TERMINAL_SECONDS, _MAP_LINES = 2.0, 16


@click.command(short_help="Print what CACHE holds, or how its dump comes on.")
@click.argument("cache")
@click.option("--follow", is_flag=True, help="Show the progress of the dump, by whatever workers, until it is complete.")
@click.option("--seeds", help="Seeds to follow  [those of the first dump and all begun since].", metavar="A:B")
@JSON
def info(cache: str, follow: bool, seeds: str | None, as_json: bool) -> None:
    """Print what CACHE holds; with --json the whole manifest.

    With --follow: units done, rate, time left, workers and a map of seeds and units on a terminal, else a line every 30 s.
    """
    from kdcache.cache import open_cache
    from kdcache.errors import UsageError
    from kdcache.info import describe

    opened = open_cache(cache)
    if follow:
        _follow(opened, seeds, as_json=as_json)
        return
    if seeds is not None:
        raise UsageError("--seeds says which seeds --follow counts; give --follow too")
    result = describe(opened)
    print_result(result, _info_lines(result), as_json=as_json)


def _follow(cache: Any, seeds: str | None, *, as_json: bool) -> None:
    from kdcache.info import follow
    from kdcache.tracking import LINE_SECONDS

    if sys.stdout.isatty() and not as_json:
        _show(follow(cache, seeds, seconds=_TERMINAL_SECONDS))
        return
    for state in follow(cache, seeds, seconds=LINE_SECONDS):
        line = json.dumps(_as_json(state)) if as_json else f"{_counted(state)}, {_workers(state)}"
        click.echo(line)


def _show(states: "Iterator[Progress]") -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for state in states:
            live.update(Text("\n".join(_screen(state, console.width)), no_wrap=True), refresh=True)


def _screen(state: "Progress", width: int) -> list[str]:
    """Return the lines that a terminal shows."""
    lines = state.lines(max(width - 16, 10), _MAP_LINES)
    margin = max((len(seeds) for seeds, _ in lines), default=0)
    return [
        _counted(state),
        _workers(state, named=True)[:width],
        *(f"seed {seeds:>{margin}} {units}" for seeds, units in lines),
    ]


def _counted(state: "Progress") -> str:
    share = 100 * state.done / max(state.total, 1)
    left = "complete" if state.is_complete else "none of late"
    if state.seconds_left and state.rate:
        left = f"{60 * state.rate:.1f} a minute, {human_seconds(state.seconds_left)} left"
    return f"{state.done}/{state.total} units ({share:.0f} %), {left}"


def _workers(state: "Progress", *, named: bool = False) -> str:
    count = len(state.workers)
    text = f"{count} worker{'' if count == 1 else 's'} in the last 10 min"
    names = ", ".join(f"{printable(brief(name)) or 'unknown'} ({units})" for name, units in state.workers.items())
    return f"{text}: {names}" if named and names else text


def _as_json(state: "Progress") -> dict[str, Any]:
    names = ("done", "total", "rate", "seconds_left", "workers")
    return {name: getattr(state, name) for name in names}


def _info_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    manifest = result["manifest"]
    per_view = f", {result['bytes_per_view']:.1f} per view" if result["units"] else ""
    incomplete = [(f"seed {seed}", f"{len(units)} units missing") for seed, units in result["missing"].items()]
    return [
        ("task", f"{manifest['task']}, {manifest['classes']} classes{_maps_text(manifest)}"),
        ("source", _source_text(manifest)),
        *_subset_lines(manifest),
        ("recipe", f"{manifest['recipe']['name']} ({manifest['recipe']['fingerprint'][:12]})"),
        ("teacher", f"{manifest['teacher']['spec']} ({manifest['teacher']['sha256'][:12]})"),
        ("codec", result["codec"] + codec_error_text(manifest["made_by"].get("gradient_error", {}))),
        ("store", _store_text(manifest)),
        ("seeds", ranges(result["complete_seeds"])),
        *incomplete,
        ("units", f"{result['units']} of {manifest['unit_rows']} rows"),
        ("bytes", f"{human_bytes(result['bytes'])}{per_view}"),
        *_absent_lines(result),
        ("made", _made_text(manifest["made_by"])),
        *_origin_lines(manifest["made_by"]),
    ]


def _store_text(manifest: dict[str, Any]) -> str:
    """Return how units are stored."""
    store, count = manifest.get("store", "zarr"), manifest.get("seeds_per_unit", 1)
    images = ", with images" if manifest.get("has_images") else ""
    return f"{store}{images}, {count} seed{'s' * (count > 1)} to a tar" if store == "webdataset" else str(store)


def _subset_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    part = manifest.get("samples")
    return [("samples", f"{part['count']:,} of {manifest['rows']:,}")] if part else []


def _absent_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    part = f" in {result['absent_of']} units that were looked at" if result["absent_of"] < result["units"] else ""
    return [("absent", f"{result['absent']} views whose sample cannot be read{part}")] if result["absent"] or part else []


def _made_text(made_by: dict[str, Any]) -> str:
    version = made_by.get("versions", {}).get("kdcache", "of an unknown version")
    return f"{made_by.get('created', 'at an unknown time')} with kdcache {version}"


def _maps_text(manifest: dict[str, Any]) -> str:
    """Return what maps a view has; nothing for classification."""
    if not manifest.get("sites"):
        return ""
    heads, height, width = manifest["sites"]
    maps = f"{height}x{width} maps of {heads} heads" if heads > 1 else f"a {height}x{width} map"
    return f", {maps} at stride {manifest['teacher']['stride']}"


def _origin_lines(made_by: dict[str, Any]) -> list[tuple[str, str]]:
    origin = made_by.get("recoded_from")
    if origin is None:
        return []
    return [("recoded", f"from {origin['codec']}" + codec_error_text(origin["made_by"].get("gradient_error", {})))]


def _source_text(manifest: dict[str, Any]) -> str:
    source = manifest["source"]
    digests = ", with content digests" if "contents" in source else ""
    return f"{source['spec']}, {manifest['rows']} samples{digests}"
