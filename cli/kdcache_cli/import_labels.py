"""The command `import`: a cache from the soft labels that somebody else's program stored."""

from typing import Any

import click

from kdcache.runtime.wording import counted, human_bytes, human_seconds, ranges
from kdcache_cli.options import JSON
from kdcache_cli.output import print_result


@click.command(name="import", short_help="Make a cache of soft labels that others stored.")
@click.argument("format")
@click.argument("folder")
@click.argument("cache")
@click.option("--data", required=True, help="Images that the labels are of.", metavar="SPEC")
@click.option(
    "--teacher-name", required=True, help="What the cache says of the teacher.", metavar="TEXT"
)
@click.option(
    "--program-config",
    help="Settings that their program was run with; tinyvit needs them.",
    metavar="FILE",
)
@click.option(
    "--crops",
    help="Crops of each sample that become the seeds from 0 on, B left out  [all].",
    metavar="A:B",
)
@click.option("--size", type=int, help="Side of a view  [as in their program].", metavar="N")
@click.option(
    "--interpolation",
    help="How crops are resized: bilinear or bicubic  [as in their program].",
    metavar="NAME",
)
@JSON
def import_labels(as_json: bool, **settings: Any) -> None:
    """Write to CACHE the soft labels and views that others stored in FOLDER. Run again, it goes
    on where it stopped.

    FORMAT is fkd, ml-dr or tinyvit. fkd are the files of FKD and FerKD, which hold boxes, flips and
    the likeliest classes of each crop. ml-dr are those of ImageNet+, which may hold operations,
    erased blocks and partners, too. tinyvit are those of TinyViT, which hold the seed of each view.
    """
    from kdcache.imports.config import ImportConfig, check_specs

    config = ImportConfig(**settings)
    check_specs(config)
    from kdcache.imports.run import run_import

    result = run_import(config)
    print_result(result, _lines(result), as_json=as_json)


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    units = counted(result["units_written"], "unit")
    lines = [
        ("cache", result["cache"]),
        ("from", f"{result['folder']}, {result['format']}"),
        ("seeds", f"{ranges(result['seeds'])}, {result['rows']} views each"),
        ("labels", f"{counted(result['labels'], 'class')} a view"),
        ("written", f"{units} in {human_seconds(result['seconds'])}"),
        ("bytes", f"{human_bytes(result['bytes'])}, {result['bytes_per_view']:.1f} per view"),
    ]
    if result["teacher_accuracy"] is not None:
        lines.append(("teacher", f"{result['teacher_accuracy']:.2f} % right on these views"))
    if result["absent"]:
        views = counted(result["absent"], "view")
        lines.append(("absent", f"{views} that have no labels"))
    return lines
