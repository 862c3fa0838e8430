"""The command `report`: a page on several runs."""

from collections.abc import Mapping
from typing import Any

import click

from kdcache_cli.options import JSON, compute, configured
from kdcache_cli.output import print_result


@click.command(short_help="Write a page that compares runs: curves, scores, classes, views.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", required=True, help="Page to write (.html).", metavar="FILE")
@click.option(
    "--against",
    help="Line, or run, that others are compared with  [labels only, else the first].",
    metavar="NAME",
)
@click.option(
    "--evaluate/--no-evaluate",
    default=None,
    help="Whether weights and data are looked at: classes, confusion, views  [they are, but scores"
    " of maps and boxes are those that runs recorded].",
)
@compute
@JSON
def report(as_json: bool, **flags: Any) -> None:
    """Write one page on the runs in folders RUN, or in the folders that these hold.

    Runs that differ in nothing but run seed and order seed are one line: a mean with its standard
    error. The page needs no network and no other file.
    """
    from kdcache.report.config import ReportConfig
    from kdcache.report.page import write_report

    flags["runs"] = list(flags["runs"])
    config = configured(ReportConfig, "report", None, flags)
    result = write_report(config)
    print_result(result, _lines(result), as_json=as_json)


def _lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    from kdcache.tasks.score_names import title_of

    lines = [("file", result["file"])]
    title = "score"
    if result["score"] is not None:
        title = title_of(result["score"])
        lines.append(("score", f"{title} in percent, last epoch"))
    for line in result["lines"]:
        lines.append((line["name"], _line_text(line, title, result["against"])))
    return lines


def _line_text(line: Mapping[str, Any], title: str, against: str) -> str:
    score = line["score"]
    if score is None:
        return f"no {title}"
    text = f"{score['mean']:.2f}"
    if score["standard_error"] is not None:
        text += f" ± {score['standard_error']:.2f} over {score['n']} runs"
    difference = line["difference"]
    if difference is None:
        return text
    text += f", {difference['mean']:+.2f}"
    if difference["standard_error"] is not None:
        text += f" ± {difference['standard_error']:.2f}"
    return f"{text} against {against}"
