"""Write the pages of the reference that come from the code: commands, configuration, API.

`python docs/reference/generate.py` writes them; a test compares them with what it would write.
"""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

import kdcache
from kdcache.dump.config import DumpConfig
from kdcache.train.config import TrainConfig
from kdcache_cli.commands import main

FOLDER = Path(__file__).parent
CONFIGURATIONS = {"dump-teacher": DumpConfig, "train-student": TrainConfig}
KINDS = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "table"}
ROOMS = {
    "Dumps and caches": ("dump", "imports", "cache", "verify", "tools"),
    "Training": ("loader", "train"),
    "Losses": ("losses", "soft_targets"),
    "Data, views and models": ("sources", "views", "codecs", "models", "positions"),
    "Errors": ("errors",),
}
"""By the titles of the API's page the rooms whose public names stand there."""


def pages() -> dict[Path, str]:
    """Return the text of each page by its path."""
    return {
        FOLDER / "commands.md": commands_page(),
        FOLDER / "configuration.md": configuration_page(),
        FOLDER / "api.md": api_page(),
    }


def commands_page() -> str:
    """Return the page of all commands and their options."""
    lines = [
        "# Commands",
        "",
        "Every command and option, as `--help` prints them.",
        "What stands in brackets is the default.",
    ]
    for name, command in main.commands.items():
        lines += ["", f"## kdcache {name}", "", *_command_lines(name, command)]
    return "\n".join(lines) + "\n"


def _command_lines(name: str, command: click.Command) -> Iterator[str]:
    # with the settings of commands: click keeps the first option of help that it is asked for
    context = click.Context(command, info_name=f"kdcache {name}", **main.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("```text", f"kdcache {name} {usage}", "```", "")
    yield from _plain(inspect.cleandoc(command.help or "")).splitlines()
    yield from ("", "| option | meaning |", "|---|---|")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            option, meaning = record
            option = option.replace("|", " or ")
            yield f"| `{option}` | {_cell(meaning)} |"


def configuration_page() -> str:
    """Return the page of all keys of configuration files."""
    lines = [
        "# Configuration",
        "",
        "Every key of a configuration file.",
        "Flags override a file, and `--set section.key=value` reaches each key.",
        "[How to use a file](../how-to/configure.md).",
    ]
    for command, config in CONFIGURATIONS.items():
        for table, cls in _tables(command, config):
            lines += ["", f"## [{table}]", "", *_prose(cls), ""]
            lines += ["| key | kind | default | meaning |", "|---|---|---|---|"]
            lines += _key_lines(cls)
    return "\n".join(lines) + "\n"


def _tables(table: str, cls: type) -> Iterator[tuple[str, type]]:
    """Yield a configuration's name and class, and those of the tables inside it."""
    yield table, cls
    for field, kind in _fields(cls):
        if dataclasses.is_dataclass(kind):
            yield from _tables(f"{table}.{field.name}", typing.cast(type, kind))


def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of a dataclass with their types."""
    kinds = typing.get_type_hints(cls)
    return [(field, kinds[field.name]) for field in dataclasses.fields(cls)]


def _key_lines(cls: type) -> Iterator[str]:
    meanings = field_docs(cls)
    for field, kind in _fields(cls):
        if not dataclasses.is_dataclass(kind):
            default = _default(field)
            yield (
                f"| `{field.name}` | {_kind(kind)} | {default} | {_cell(meanings[field.name])} |"
            )


def field_docs(cls: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, and of those that it inherits from."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        statements = typing.cast(ast.ClassDef, definition).body
        for statement, following in itertools.pairwise(statements):
            if not isinstance(statement, ast.AnnAssign):
                continue
            name = typing.cast(ast.Name, statement.target).id
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[name] = " ".join(str(following.value.value).split())
    return docs


def _kind(kind: Any) -> str:
    """Return the words for a type."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(kinds)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    return KINDS[origin or kind]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is None:
        return ""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is dict:
        value = {}
    elif field.default_factory is not dataclasses.MISSING:
        return "of the machine"
    else:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value}`"


def api_page() -> str:
    """Return the page of all public names, which mkdocstrings fills in."""
    lines = [
        "# API",
        "",
        "`import kdcache` takes no torch: each name is imported when it is first used.",
    ]
    for title, rooms in ROOMS.items():
        lines += ["", f"## {title}"]
        for room in rooms:
            for name in public_names(room):
                lines += ["", f"::: {getattr(kdcache, name).__module__}.{name}"]
    return "\n".join(lines) + "\n"


def public_names(room: str) -> list[str]:
    """Return the public names that come from a room."""
    homes = {name: getattr(kdcache, name).__module__.split(".")[1] for name in kdcache.__all__}
    return [name for name in sorted(homes) if homes[name] == room]


def _prose(cls: type) -> list[str]:
    text = _plain(" ".join(inspect.cleandoc(cls.__doc__ or "").split()))
    return re.split(r"(?<=\.) (?=[A-Z])", text)


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", " or ")


def _plain(text: str) -> str:
    """Return text in which no sign has a meaning of Markdown's, outside code."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    for path, page in pages().items():
        path.write_text(page, "utf-8")
