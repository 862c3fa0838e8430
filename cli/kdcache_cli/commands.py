"""The command `kdcache` and the list of its commands."""

import click

from kdcache import __version__
from kdcache_cli.codec_error import codec_error
from kdcache_cli.dump_teacher import dump_teacher
from kdcache_cli.evaluate import evaluate
from kdcache_cli.export_model import export_model
from kdcache_cli.group import Group
from kdcache_cli.hub import pull, push
from kdcache_cli.import_labels import import_labels
from kdcache_cli.info import info
from kdcache_cli.init import init
from kdcache_cli.options import JSON
from kdcache_cli.predict import predict
from kdcache_cli.recode import recode
from kdcache_cli.report import report
from kdcache_cli.show import show
from kdcache_cli.train_student import train_student
from kdcache_cli.transfer import convert, export, merge
from kdcache_cli.verify import gc, verify

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
SECTIONS = {
    "Start": ["quickstart", "init"],
    "Teacher to cache to student": ["dump-teacher", "train-student"],
    "Trained models": ["evaluate", "report", "predict", "export-model"],
    "Look at a cache": ["info", "show", "verify", "codec-error"],
    "Caches from caches": ["recode", "convert", "export", "merge", "import", "push", "pull", "gc"],
}


@click.group(cls=Group, sections=SECTIONS, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="kdcache")
def main() -> None:
    """Run a teacher once, cache its logits per view, and train students from the cache."""


for command in (
    *(init, dump_teacher, train_student, evaluate, report, predict, export_model),
    *(info, show, verify, codec_error),
    *(recode, convert, export, merge, import_labels, push, pull, gc),
):
    main.add_command(command)


@main.command(short_help="See it all work on handwritten digits.")
@click.option(
    "--out",
    default="kdcache-quickstart",
    show_default=True,
    help="Folder for everything.",
    metavar="DIR",
)
@JSON
def quickstart(out: str, as_json: bool) -> None:
    """Train a teacher on handwritten digits, dump it, and train four students from its cache."""
    from kdcache_cli.quickstart import run_quickstart

    run_quickstart(out, as_json=as_json)
