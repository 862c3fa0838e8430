"""The commands that make a cache from others: `merge`, `export` and `convert`."""

from typing import Any

import click

from kdcache.runtime.wording import counted, human_bytes, human_seconds, ranges
from kdcache_cli.options import JSON
from kdcache_cli.output import coverage_lines, print_result


@click.command(short_help="Copy the units of several caches into one.")
@click.argument("new")
@click.argument("caches", nargs=-1, required=True, metavar="CACHE...")
@JSON
def merge(new: str, caches: tuple[str, ...], as_json: bool) -> None:
    """Copy into NEW the units of every CACHE, which share a manifest. Run again, it goes on where
    it stopped.

    Of a unit that several hold that of the first counts, or that of NEW if it is there already.
    """
    from kdcache.tools.merge import merge_caches

    result = merge_caches(new, caches)
    lines = [("cache", result["cache"])]
    for part in result["from"]:
        origin = f"{part['cache']}, {_units_text(part)}"
        lines.append(("from", origin))
    lines += copied_lines(result)
    print_result(result, lines, as_json=as_json)


@click.command(short_help="Copy some seeds, units or samples of CACHE to NEW.")
@click.argument("cache")
@click.argument("new")
@click.option("--seeds", help="Seeds to copy, B left out  [all].", metavar="A:B")
@click.option(
    "--units",
    help="Units of each seed, which are random samples of the data, B left out  [all].",
    metavar="A:B",
)
@click.option(
    "--samples", help="Samples of each seed: A:B, or a file of keys  [all].", metavar="A:B|FILE"
)
@click.option(
    "--data", help="Source of the samples, for their keys  [the cache's own list].", metavar="SPEC"
)
@JSON
def export(cache: str, new: str, as_json: bool, **flags: Any) -> None:
    """Copy some seeds, some units of each, or some samples, to NEW. Run again, it goes on where it
    stopped."""
    from kdcache.tools.export import export_cache

    result = export_cache(cache, new, **flags)
    lines = [
        ("cache", result["cache"]),
        ("from", result["source"]),
        *_subset_lines(result),
        *copied_lines(result),
    ]
    print_result(result, lines, as_json=as_json)


@click.command(short_help="Write CACHE to NEW in the other store.")
@click.argument("cache")
@click.argument("new")
@click.option(
    "--store",
    type=click.Choice(["zarr", "webdataset"]),
    required=True,
    help="What units of NEW are.",
)
@click.option("--data", help="Source of the samples in tars; webdataset needs it.", metavar="SPEC")
@click.option(
    "--images/--no-images", default=True, help="Whether tars hold the images, too  [yes]."
)
@JSON
def convert(cache: str, new: str, as_json: bool, **flags: Any) -> None:
    """Write the complete seeds of CACHE to NEW in the other store. Run again, it goes on where it
    stopped."""
    from kdcache.cache import open_cache

    open_cache(cache)
    from kdcache.tools.convert import convert_cache

    result = convert_cache(cache, new, **flags)
    units = counted(result["units_written"], "unit")
    lines = [
        ("cache", result["cache"]),
        ("from", result["source"]),
        ("seeds", f"{ranges(result['seeds'])}, {result['rows']} views each"),
        ("written", f"{units} in {human_seconds(result['seconds'])}"),
        ("bytes", f"{human_bytes(result['bytes'])}, {result['bytes_per_view']:.1f} per view"),
    ]
    print_result(result, lines, as_json=as_json)


def _subset_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    num_samples = result["samples"]
    num_rows = result["rows"]
    if num_samples >= num_rows:
        return []
    return [("samples", f"{num_samples:,} of {num_rows:,}")]


def _units_text(part: dict[str, Any]) -> str:
    text = counted(part["units"], "unit")
    if part["elsewhere"]:
        text += f", {part['elsewhere']} of them in an earlier one"
    return text


def copied_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on units that were copied, and on what a cache then holds."""
    units = counted(result["units_written"], "unit")
    size = human_bytes(result["bytes"])
    duration = human_seconds(result["seconds"])
    return [("written", f"{units}, {size} in {duration}"), *coverage_lines(result)]
