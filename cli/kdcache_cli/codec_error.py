"""The command `codec-error`: what each codec costs on your teacher, as a table, as JSON, and as a
picture."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kdcache.runtime.wording import wrapped_line
from kdcache_cli.options import JSON, check_early, compute, configured, number_or_text
from kdcache_cli.output import json_text
from kdcache_cli.sections import SectionedCommand

if TYPE_CHECKING:
    from rich.table import Table

_TERMS = {"inter": "inter", "intra": "intra", "both": "both", "kl": "KL"}
_KINDS = ("error", "cosine")
_WIDTH_OF_LOGS = 200
"""Columns of what is no terminal."""


SECTIONS = {
    "Logits": ["--teacher", "--data", "--recipe", "--student", "--views"],
    "What is measured": ["--codec", "--tau", "--batch-size"],
    "Machine": ["--device", "--workers", "--precision"],
    "Output": ["--plot", "--json"],
}


@click.command(
    "codec-error",
    short_help="Measure what each codec costs on your teacher.",
    cls=SectionedCommand,
    sections=SECTIONS,
)
@click.argument("logits", required=False, metavar="[LOGITS.npz|CACHE]")
@click.option(
    "--teacher",
    help=(
        "Model with weights, in the place of LOGITS.npz or CACHE; or CACHE's own, for its last"
        " layer."
    ),
    metavar="SPEC",
)
@click.option("--data", help="Source of its views.", metavar="SPEC")
@click.option(
    "--recipe",
    help="Recipe of its views: imagenet-b1, coco or another that ships, a TOML file or"
    " module:function.",
    metavar="NAME|FILE",
)
@click.option(
    "--student",
    help=(
        "Model with weights as the proxy student  [the teacher on another view; of maps and boxes"
        " at the next position]."
    ),
    metavar="SPEC",
)
@click.option(
    "--views",
    type=int,
    help="Views to run or to read  [4096; of maps and boxes 64].",
    metavar="N",
)
@click.option(
    "--codec",
    multiple=True,
    help="Codec to measure; give it again for more  [a ladder over all].",
    metavar="SPEC",
)
@click.option(
    "--tau",
    type=float,
    multiple=True,
    help="Temperature; give it again for more  [1 and 4].",
    metavar="X",
)
@click.option(
    "--batch-size",
    type=number_or_text,
    multiple=True,
    help="Views of a batch; give it again for more  [256; of maps and boxes at most those that are"
    " measured]. auto, alone or beside a number, tries how many views suit the models on the device"
    "  [the smallest number].",
    metavar="N|auto",
)
@click.option(
    "--plot", help="Draw bytes against errors into FILE (.png, .pdf, .svg).", metavar="FILE"
)
@compute
@JSON
def codec_error(plot: str | None, as_json: bool, **flags: Any) -> None:
    """Print bytes per view and the error of the student's gradient for each codec.

    The logits come from an .npz file, from a `full` cache of two seeds (of maps and boxes one is
    enough), or from --teacher, --data and --recipe.
    """
    from kdcache.codec_error.config import CodecErrorConfig
    from kdcache.codec_error.specs import check_specs

    if plot is not None:
        from kdcache.codec_error.plot import check_plot

        check_plot(plot)
    for name in ("codec", "tau", "batch_size"):
        flags[name] = flags[name] or None  # click has an empty tuple where a flag is not given
    config = configured(CodecErrorConfig, "codec-error", None, flags)
    check_early(check_specs, config)
    from kdcache.codec_error.measure import measure_codec_error

    result = measure_codec_error(config)
    if as_json:
        click.echo(json_text(result))
    else:
        _print(result)
    if plot is not None:
        from kdcache.codec_error.plot import plot_codec_error

        plot_codec_error(result, plot)


def _print(result: Mapping[str, Any]) -> None:
    _print_note(f"{result['input']}, {result['classes']} classes; student: {result['proxy']}")
    _print_note(_samples_text(result))
    for size in result["batch_sizes"]:
        for tau in result["taus"]:
            _print_table(result, tau, size)
    click.echo()
    _print_note(
        "error: |cached - exact| / |exact| of the gradient with respect to the student's logits;"
        " both: DIST, beta = gamma = 2"
    )
    for spec, reason in result["failed"].items():
        _print_note(f"{spec} fails: {reason}")
    _print_note(
        "*: on the front: none takes fewer bytes at as small an error of `both`, the worst of the"
        " tables above; of equal ones the first"
    )


def _samples_text(result: Mapping[str, Any]) -> str:
    """Return what codecs were fitted to, and measured on."""
    fitted_on = result["fitted_on"]
    measured_on = result["measured_on"]
    if not result["sites"]:
        return f"fitted on {fitted_on} views, measured on {measured_on} of other samples"
    sites = "x".join(map(str, result["sites"]))
    views = f"{measured_on} other views of {sites}, whole"
    return f"fitted on {fitted_on} positions, measured on {views}"


def _print_note(line: str) -> None:
    click.echo(wrapped_line(line, on_terminal=sys.stdout.isatty()))


def _print_table(result: Mapping[str, Any], tau: float, size: int) -> None:
    """Print the errors at one temperature and batch size, and the cosines where there is room."""
    from rich.console import Console
    from rich.measure import Measurement

    width: int | None = _WIDTH_OF_LOGS
    if sys.stdout.isatty():
        width = None  # that of the terminal
    console = Console(width=width)
    table = _table(result, tau, size, _KINDS)
    options = console.options.update(width=_WIDTH_OF_LOGS)
    if Measurement.get(console, options, table).maximum > console.width:
        table = _table(result, tau, size, _KINDS[:1])
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n" + "\n".join(lines))


def _table(result: Mapping[str, Any], tau: float, size: int, kinds: Sequence[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    box = None
    if sys.stdout.isatty():
        box = SIMPLE_HEAD
    title = f"tau {tau:g}, batches of {size}"
    table = Table(title=title, title_justify="left", box=box)
    table.add_column("\ncodec", no_wrap=True)
    table.add_column("bytes\nper view", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    columns = list(itertools.product(kinds, _TERMS))
    for kind, term in columns:
        table.add_column(f"{kind}\n{_TERMS[term]}", justify="right", no_wrap=True)
    for cost in result["codecs"]:
        gradient = _gradient_of(cost, tau, size)
        values = [f"{gradient[term][kind]:.3f}" for kind, term in columns]
        mark = ""
        style = None
        if cost["front"]:
            mark = "*"
            style = "bold"
        table.add_row(cost["codec"], f"{cost['bytes']:.1f}", mark, *values, style=style)
    for spec in result["failed"]:
        table.add_row(spec, "fails", style="dim")
    return table


def _gradient_of(cost: Mapping[str, Any], tau: float, size: int) -> Mapping[str, Any]:
    """Return a codec's errors at one temperature and batch size."""
    for gradient in cost["gradients"]:
        if gradient["tau"] == tau and gradient["batch_size"] == size:
            errors: Mapping[str, Any] = gradient
            return errors
    raise AssertionError("every codec is measured at each of both")
