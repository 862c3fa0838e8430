"""The command `info`: what a cache holds, whether it is complete, and with --follow how the dump
into it comes on."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from kdcache.runtime.wording import counted
from kdcache_cli.cache_lines import cache_lines
from kdcache_cli.dump_progress import log_line, screen_lines
from kdcache_cli.options import JSON
from kdcache_cli.output import json_text, print_result

if TYPE_CHECKING:
    from kdcache.cache import Cache
    from kdcache.tools.info import Progress

_TERMINAL_SECONDS = 2.0


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
        print_result(result, cache_lines(result), as_json=as_json)


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
            click.echo(log_line(state))


def _show(states: "Iterator[Progress]") -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for state in states:
            screen = "\n".join(screen_lines(state, console.width))
            live.update(Text(screen, no_wrap=True), refresh=True)
