"""The command `init`: a file of settings to begin with."""

import click

from kdcache_cli.options import JSON
from kdcache_cli.output import print_result, shell_command


@click.command(short_help="Write a commented file of settings to begin with.")
@click.argument("file", default="kdcache.toml", metavar="[FILE.toml]")
@JSON
def init(file: str, as_json: bool) -> None:
    """Write a file with the settings of dump-teacher and train-student, each with what it is.

    By default it is kdcache.toml. A file that exists is left as it is.
    """
    from kdcache.config.starter import write_starter

    write_starter(file)
    steps = [
        shell_command("kdcache", "dump-teacher", "--config", file, "--plan"),
        shell_command("kdcache", "train-student", "--config", file),
    ]
    lines = [("written", file), ("then", steps[0]), ("", steps[1])]
    print_result({"file": file, "then": steps}, lines, as_json=as_json)
