"""The commands that look after a cache's bytes: `verify`, and `gc` for what dead writers left."""

from collections.abc import Sequence
from typing import Any

import click

from kdcache.errors import MOST_MESSAGE, one_line
from kdcache.runtime.wording import counted, human_bytes
from kdcache_cli.options import JSON, rerun
from kdcache_cli.output import coverage_lines, print_result

_SHOWN = 10


@click.command(short_help="Check every byte of CACHE against its commits.")
@click.argument("cache")
@click.option(
    "--views",
    type=int,
    help="Also render up to N views again and compare them  [0; with --teacher 64].",
    metavar="N",
)
@click.option("--contents", is_flag=True, help="Also read all data, and name what has changed.")
@click.option(
    "--data", help="Source for these  [the cache's own images, if it holds them].", metavar="SPEC"
)
@click.option(
    "--teacher",
    help="Also run the teacher again on as many and compare its logits.",
    metavar="SPEC",
)
@click.option(
    "--complete",
    is_flag=True,
    help="Count it as a fault if anything that it was asked to hold is missing.",
)
@click.option(
    "--report",
    help="Write a line of JSON per unit, and go on from those that are there.",
    metavar="FILE",
)
@rerun
@JSON
def verify(cache: str, as_json: bool, batch_size: int | None, **flags: Any) -> None:
    """Check every byte of CACHE against its commits; exit 1 if anything is wrong."""
    from kdcache.cache import open_cache
    from kdcache.verify.cache import verify_cache
    from kdcache.verify.logits import compute_of

    opened = open_cache(cache)
    placed = {key: flags.pop(f"compute__{key}") for key in ("workers", "device", "precision")}
    given = {key: value for key, value in placed.items() if value is not None}
    compute = compute_of(opened, **given) if given else None
    found = verify_cache(opened, batch_size=batch_size, compute=compute, **flags)
    print_result(found, _verify_lines(found), as_json=as_json)
    raise SystemExit(1 if found["faults"] else 0)


def _verify_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    known = f", {found['from_report']} of them as the report says" if found["from_report"] else ""
    lines = [
        ("units", f"{found['units']} checked, {human_bytes(found['bytes'])}{known}"),
        *coverage_lines(found),
    ]
    if found["absent"]:
        views = counted(found["absent"], "view")
        lines.append(("absent", f"{views} whose sample cannot be read"))
    if "contents" in found:
        lines.append(("contents", _contents_text(found["contents"])))
    if "views" in found:
        lines.append(("views", _rendered_text(found["views"])))
    if "teacher" in found:
        lines.append(("teacher", _rerun_text(found["teacher"])))
    lines += _stray_lines(found)
    lines += [("fault", one_line(fault, MOST_MESSAGE)) for fault in found["faults"]]
    lines.append(("faults", str(len(found["faults"]))))
    return lines


def _stray_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on what lies in the cache besides, all of it harmless."""
    lines: list[tuple[str, str]] = []
    if found["temporary"]:
        files = counted(found["temporary"], "temporary file")
        lines.append(("left over", f"{files} of killed writers, harmless"))
    lines += [("orphaned", text) for text in _some(found["orphaned"])]
    lines += [("foreign", text) for text in _some(found["foreign"])]
    return lines


def _some(keys: Sequence[str]) -> list[str]:
    """Return the first keys, and how many more there are."""
    shown = list(keys[:_SHOWN])
    if len(keys) > _SHOWN:
        shown.append(f"and {len(keys) - _SHOWN} more; --json lists them")
    return shown


def _rendered_text(views: dict[str, int]) -> str:
    others = views["other_pixels"]
    as_then = "all as at the dump"
    if others:
        as_then = f"{others} with other pixels under the same thumbnail"
    return f"{views['checked']} rendered again, {as_then}"


def _contents_text(contents: dict[str, int]) -> str:
    changed = contents["changed"]
    return f"{contents['checked']} samples read, {changed or 'none'} of them changed"


def _rerun_text(found: dict[str, Any]) -> str:
    ran = (
        f"run again on {found['views']} views in {found['precision']}: {found['equal_records']}"
        " records equal"
    )
    apart = (
        f"largest difference {found['largest_difference']:.3g}, median"
        f" {found['median_difference']:.3g}"
    )
    return f"{ran}, {apart}, {found['beyond']} beyond rounding"


@click.command(short_help="Remove what killed writers left in CACHE.")
@click.argument("cache")
@click.option(
    "--older-than", default="7d", show_default=True, help="Age, in s, m, h or d.", metavar="AGE"
)
@click.option("--delete", is_flag=True, help="Remove them; without it they are only told.")
@JSON
def gc(cache: str, as_json: bool, older_than: str, delete: bool) -> None:
    """Tell, and with --delete remove, temporary and orphaned objects of CACHE that are older than
    an age."""
    from kdcache.cache import open_cache
    from kdcache.tools.garbage import collect_garbage

    found = collect_garbage(open_cache(cache), older_than=older_than, delete=delete)
    print_result(found, _gc_lines(found), as_json=as_json)


def _gc_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    objects = f"{counted(len(found['keys']), 'object')}, {human_bytes(found['bytes'])}"
    lines = [("object", text) for text in _some(found["keys"])]
    if found["is_deleted"]:
        lines.append(("removed", objects))
    else:
        way_on = "; --delete removes them" if found["keys"] else ""
        lines.append(("to remove", f"{objects}{way_on}"))
    if found["young"]:
        young = counted(found["young"], "younger object")
        lines.append(("kept", f"{young}: a writer may be at work"))
    if found["busy"]:
        busy = counted(found["busy"], "object")
        why = "a dump was at work of late, and may take them up"
        lines.append(("kept", f"{busy} of units: {why}"))
    return lines
