"""Help in sections: options of a command, and commands of the group, under what they are for."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

Sections = Mapping[str, Sequence[str]]
"""Names of options, or of commands, by the title of their section."""
_REST = "Other options"


class SectionedCommand(click.Command):
    """A command whose help shows its options in sections; those that are in none come last."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section after the other."""
        records: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[max(parameter.opts, key=len)] = record
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section(_REST):
            formatter.write_dl(list(records.values()))


def write_commands(
    group: click.Group, sections: Sections, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write the commands of a group, a section after the other."""
    width = max(len(name) for name in group.commands)
    limit = formatter.width - 6 - width
    for title, names in sections.items():
        lines = []
        for name in names:
            text = group.commands[name].get_short_help_str(limit)
            lines.append((name.ljust(width), text))
        with formatter.section(title):
            formatter.write_dl(lines)
