"""The command `recode`: another codec's cache from a finished one."""

from typing import Any

import click

from kdcache.runtime.wording import counted, human_bytes, human_seconds, ranges
from kdcache_cli.options import JSON
from kdcache_cli.output import errors_text, print_result


@click.command(short_help="Write CACHE to NEW with another codec.")
@click.argument("cache")
@click.argument("new")
@click.option(
    "--codec",
    required=True,
    help="Codec of NEW, such as lowrank:step=2 or topk:k=10.",
    metavar="SPEC",
)
@click.option("--seeds", help="Seeds to recode, B left out  [all complete ones].", metavar="A:B")
@JSON
def recode(cache: str, new: str, codec: str, seeds: str | None, as_json: bool) -> None:
    """Write what CACHE holds to NEW with another codec, without the teacher. Run again, it goes on
    where it stopped.

    NEW cannot hold more than CACHE: no classes that CACHE dropped, and no finer logits.
    """
    from kdcache.runtime.console import nothing_said
    from kdcache.tools.recode_checks import checked_recoding

    with nothing_said():  # but for what is wrong: it is done once more
        checked_recoding(cache, new, codec=codec, seeds=seeds)
    from kdcache.tools.recode import recode_cache

    result = recode_cache(cache, new, codec=codec, seeds=seeds)
    print_result(result, _lines(result), as_json=as_json)


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    before = result["before"]
    after = result["after"]
    units = counted(result["units_written"], "unit")
    lines = [
        ("cache", result["cache"]),
        ("codec", f"{after['codec']} from {before['codec']}"),
        ("seeds", f"{ranges(result['seeds'])}, {result['rows']} views each"),
        ("written", f"{units} in {human_seconds(result['seconds'])}"),
        ("bytes", f"{_size(after)}; before: {_size(before)}"),
        ("gradient", _gradient_text(result)),
    ]
    if result["absent"]:
        views = counted(result["absent"], "view")
        lines.append(("absent", f"{views} whose sample could not be read, or had no labels"))
    return lines


def _gradient_text(result: dict[str, Any]) -> str:
    if errors := result["gradient_error"]:
        return f"of DIST turned by {errors_text(errors)}, measured on views of {result['source']}"
    if result["origin_error"]:
        codec, errors = result["origin_error"]
        return (
            f"of DIST turned further than by {codec} before it ({errors_text(errors)}), how far was"
            " not measured"
        )
    return (
        f"not measured: that takes exact logits of two seeds, which {result['source']} does not"
        " hold"
    )


def _size(part: dict[str, Any]) -> str:
    return f"{human_bytes(part['bytes'])}, {part['bytes_per_view']:.1f} per view"
