"""The commands that look after a cache's bytes: `verify`, and `gc` for what dead writers left."""

from collections.abc import Sequence
from typing import Any

import click

from kdcache.errors import MOST_MESSAGE, one_line
from kdcache.runtime.wording import counted, human_bytes
from kdcache_cli.options import JSON, rerun
from kdcache_cli.output import coverage_lines, print_result

_MOST_KEYS = 10


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
def verify(cache: str, as_json: bool, batch_size: Any, **flags: Any) -> None:
    """Check every byte of CACHE against its commits; exit 1 if anything is wrong."""
    from kdcache.cache import open_cache

    opened = open_cache(cache)
    from kdcache.verify.known_teacher import compute_of
    from kdcache.verify.specs import check_specs

    settings: dict[str, Any] = {}
    for name in ("workers", "device", "precision"):
        value = flags.pop(f"compute__{name}")
        if value is not None:
            settings[name] = value
    compute = None
    if settings:
        compute = compute_of(opened, **settings)
    used = {name: flags[name] for name in ("views", "contents", "data", "teacher")}
    check_specs(opened, batch_size=batch_size, is_placed=compute is not None, **used)
    from kdcache.verify.cache import verify_cache

    report = verify_cache(opened, batch_size=batch_size, compute=compute, **flags)
    print_result(report, _verify_lines(report), as_json=as_json)
    if report["faults"]:
        raise SystemExit(1)
    raise SystemExit(0)


def _verify_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("units", _units_text(report)), *coverage_lines(report)]
    if report["absent"]:
        views = counted(report["absent"], "view")
        lines.append(("absent", f"{views} whose sample cannot be read, or has no labels"))
    if "contents" in report:
        lines.append(("contents", _contents_text(report["contents"])))
    if "views" in report:
        lines.append(("views", _rendered_text(report["views"])))
    if "teacher" in report:
        lines.append(("teacher", _rerun_text(report["teacher"])))
    lines += _stray_lines(report)
    faults = report["faults"]
    lines += _lines_named("fault", [one_line(fault, MOST_MESSAGE) for fault in faults])
    lines.append(("faults", str(len(faults))))
    return lines


def _units_text(report: dict[str, Any]) -> str:
    text = f"{report['units']} checked, {human_bytes(report['bytes'])}"
    if report["from_report"]:
        text += f", {report['from_report']} of them as the report says"
    return text


def _stray_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on what lies in the cache besides, all of it harmless."""
    lines: list[tuple[str, str]] = []
    if report["temporary"]:
        files = counted(report["temporary"], "temporary file")
        lines.append(("left over", f"{files} of killed writers, harmless"))
    lines += _lines_named("orphaned", _some(report["orphaned"]))
    lines += _lines_named("foreign", _some(report["foreign"]))
    return lines


def _lines_named(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, text) for text in texts]


def _some(keys: Sequence[str]) -> list[str]:
    """Return the first keys, and how many more there are."""
    texts = list(keys[:_MOST_KEYS])
    if len(keys) > _MOST_KEYS:
        texts.append(f"and {len(keys) - _MOST_KEYS} more; --json lists them")
    return texts


def _rendered_text(views: dict[str, int]) -> str:
    num_other = views["other_pixels"]
    comparison = "all as at the dump"
    if num_other:
        comparison = f"{num_other} with other pixels under the same thumbnail"
    return f"{views['checked']} rendered again, {comparison}"


def _contents_text(contents: dict[str, int]) -> str:
    changed = contents["changed"] or "none"
    return f"{contents['checked']} samples read, {changed} of them changed"


def _rerun_text(rerun: dict[str, Any]) -> str:
    views = f"{rerun['views']} views in {rerun['precision']}"
    equal = f"{rerun['equal_records']} records equal"
    largest = f"largest difference {rerun['largest_difference']:.3g}"
    median = f"median {rerun['median_difference']:.3g}"
    beyond = f"{rerun['beyond']} beyond rounding"
    return f"run again on {views}: {equal}, {largest}, {median}, {beyond}"


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

    garbage = collect_garbage(open_cache(cache), older_than=older_than, delete=delete)
    print_result(garbage, _gc_lines(garbage), as_json=as_json)


def _gc_lines(garbage: dict[str, Any]) -> list[tuple[str, str]]:
    keys = garbage["keys"]
    objects = f"{counted(len(keys), 'object')}, {human_bytes(garbage['bytes'])}"
    lines = _lines_named("object", _some(keys))
    if garbage["is_deleted"]:
        lines.append(("removed", objects))
    elif keys:
        lines.append(("to remove", f"{objects}; --delete removes them"))
    else:
        lines.append(("to remove", objects))
    if garbage["young"]:
        young = counted(garbage["young"], "younger object")
        lines.append(("kept", f"{young}: a writer may be at work"))
    if garbage["busy"]:
        busy = counted(garbage["busy"], "object")
        why = "a dump was at work of late, and may take them up"
        lines.append(("kept", f"{busy} of units: {why}"))
    return lines
