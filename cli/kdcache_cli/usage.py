"""Command lines that are not understood, each told in one line."""

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import click

from kdcache.errors import UsageError

_FLAG = re.compile(r"--[a-z-]+")
_RENAMED = {"fidelity": "codec-error"}
"""Commands of former versions, and what they are called now."""
_MOST_SIMILAR = 3


def require_command(word: str, commands: Iterable[str]) -> None:
    """Raise a UsageError if no command is called `word`."""
    if word in _RENAMED:
        name = _RENAMED[word]
        raise UsageError(f"{word} is called {name} now; write kdcache {name}")
    if word not in commands:
        problem = f"there is no command {word!r}"
        raise UsageError(_unknown_text(problem, word, commands, "kdcache"))


def require_words(command: str, words: Sequence[str]) -> None:
    """Raise a UsageError at an empty word, such as that of a variable that is not set, and at a `~`
    that no shell has read."""
    from kdcache.config.texts import require_text

    for before, word in pairwise(["", *words]):
        name = f"an argument of {command}"
        text = word
        if word.startswith("--") and "=" in word:
            name, _, text = word.partition("=")
        elif _FLAG.fullmatch(before):
            name = f"{before}, or what follows it,"
        require_text(text, name)


def command_name(inner: click.Context | None, group: click.Context | None) -> str:
    """Return the words that call a command, however this process was started."""
    name = None
    if inner is not None and inner.parent is not None:
        name = inner.info_name
    if name is None and group is not None:
        name = group.invoked_subcommand
    if not name:
        return "kdcache"
    return f"kdcache {name}"


def usage_text(error: click.UsageError, name: str) -> str:
    """Return what click says of a command line, several lines, as one line.

    Args:
        error: is raised by click.
        name: the words that call the command.
    """
    if isinstance(error, click.NoSuchOption):
        flags = _flags_of(error.ctx)
        option = error.option_name
        argument = _argument_called(option.lstrip("-"), error.ctx)
        if argument is not None:
            return (
                f"{name} has no option {option}: {argument} stands by itself; write"
                f" {name} {argument}, see {name} --help"
            )
        return _unknown_text(f"{name} has no option {option}", option, flags, name)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{name} needs {_parameter_name(error.param)}; see {name} --help"
    message = error.format_message().rstrip(".")
    return f"{name}: {message[:1].lower()}{message[1:]}; see {name} --help"


def _argument_called(word: str, ctx: click.Context | None) -> str | None:
    """Return the argument of a command that a word names, as its help has it; None if none is
    called so."""
    if ctx is None:
        return None
    for parameter in ctx.command.get_params(ctx):
        name = _parameter_name(parameter).strip("[]")
        if isinstance(parameter, click.Argument) and word.upper() in name.split("|"):
            return name
    return None


def _flags_of(ctx: click.Context | None) -> list[str]:
    flags: list[str] = []
    if ctx is not None:
        for parameter in ctx.command.get_params(ctx):
            if isinstance(parameter, click.Option):
                flags += parameter.opts
    return flags


def _parameter_name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.metavar or str(parameter.name).upper()


def _unknown_text(problem: str, word: str, choices: Iterable[str], name: str) -> str:
    """Return a line on a word that is none of the choices, with those that begin like it or are
    spelled nearly so."""
    names = sorted(choices)
    similar = _with_start(names, word.strip("-"))
    similar = similar or difflib.get_close_matches(word, names, n=2)
    hint = ""
    if similar:
        hint = f"; did you mean {' or '.join(similar[:_MOST_SIMILAR])}?"
    return f"{problem}{hint} ({name} --help lists all)"


def _with_start(names: Sequence[str], start: str) -> list[str]:
    """Return the names that begin like this, dashes left out; none where it is empty."""
    if not start:
        return []
    return [name for name in names if name.lstrip("-").startswith(start)]
