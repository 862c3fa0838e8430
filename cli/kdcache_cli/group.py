"""The group of commands: each ends in one line on stderr, whatever was wrong or stopped it."""

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kdcache.errors import MOST_MESSAGE, KdcacheError, KdcacheWarning, UsageError, one_line, quoted
from kdcache.runtime.files import system_way_out
from kdcache.runtime.stopping import WAY_OUT, StopInterrupt, interrupting, signal_name
from kdcache.runtime.wording import wrapped_line
from kdcache_cli.sections import Sections, write_commands
from kdcache_cli.streams import STDOUT
from kdcache_cli.terminal import escape_what_cannot_be_shown
from kdcache_cli.usage import command_name, require_command, require_words, usage_text

_THAT_GO_ON = (
    *("dump-teacher", "train-student", "merge", "export", "convert", "recode", "push", "pull"),
    *("import", "quickstart"),
)
"""Commands that, run again, go on where they stopped; `verify` does with a report."""
_WITH_AUTOMATIC_BATCH = ("dump-teacher", "train-student", "evaluate", "predict")
_GOES_ON = "kdcache.goes_on"
_MOST_REASON = 200
"""Characters of what a library says when memory runs out."""


class OneLineError(click.ClickException):
    """A KdcacheError as click shows it: one line, and the error's own exit code."""

    def __init__(self, error: KdcacheError) -> None:
        super().__init__(one_line(str(error), MOST_MESSAGE))
        self.exit_code = error.exit_code  # type: ignore[misc]
        self._is_told = error.is_told_elsewhere

    def show(self, file: Any = None) -> None:
        """Print the line on stderr, unless another process of the run does."""
        if not self._is_told:
            _print_problem(f"kdcache: error: {self.message}{_own_place()}")


def _print_problem(line: str) -> None:
    """Print a line on stderr, on a terminal broken between words."""
    click.echo(wrapped_line(line, on_terminal=sys.stderr.isatty()), err=True)


class Group(click.Group):
    """A group whose commands end in one line, whatever was wrong."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, a section after the other."""
        write_commands(self, self.sections, ctx, formatter)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Return the context of the words of a command line."""
        with _in_one_line(), _told_by_system():
            return super().make_context(*args, **kwargs)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names, and note whether, run again, it goes on
        where it stopped."""
        word = args[0]
        rest = args[1:]
        try:
            require_command(word, self.commands)
            require_words(word, rest)
        except UsageError as error:
            raise OneLineError(error) from error
        ctx.meta[_GOES_ON] = _goes_on(word, rest)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, whatever the terminal can show."""
        escape_what_cannot_be_shown()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; signals end it as Ctrl-C does, but where it has something to keep."""
        with warnings.catch_warnings(), interrupting(), _in_one_line(ctx), _told_by_system():
            warnings.simplefilter("always", KdcacheWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KdcacheError as error:
                raise OneLineError(error) from error
            except (MemoryError, RuntimeError) as error:
                reason = _memory_text(
                    error, str(ctx.invoked_subcommand), goes_on=bool(ctx.meta.get(_GOES_ON))
                )
                if reason is None:
                    raise
                raise OneLineError(KdcacheError(reason)) from error
            except KeyboardInterrupt as interrupt:
                stop = interrupt
                if not isinstance(stop, StopInterrupt):
                    stop = StopInterrupt(signal.SIGINT)
                message = f"kdcache: stopped by {signal_name(stop.number)}"
                if ctx.meta.get(_GOES_ON):
                    message += f"; {WAY_OUT}"
                click.echo(message, err=True)
                raise click.exceptions.Exit(stop.exit_code) from None


def _goes_on(command: str, words: list[str]) -> bool:
    """Return whether a command line, run again, goes on where it stopped."""
    if "--plan" in words:
        return False
    if command == "verify":
        return any(word.partition("=")[0] == "--report" for word in words)
    return command in _THAT_GO_ON


@contextmanager
def _told_by_system() -> Iterator[None]:
    """Turn what the operating system refuses into one line, also names that it cannot be told; a
    reader of stdout that has enough is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        text = (
            f"{quoted(error.object)} cannot be written in {error.encoding}, the encoding of this"
            " locale; set PYTHONUTF8=1"
        )
        raise OneLineError(KdcacheError(text)) from error
    except OSError as error:
        raise OneLineError(KdcacheError(_system_text(error))) from error


def _system_text(error: OSError) -> str:
    """Return what the operating system refused, and of which file if that is known."""
    reason = str(error.strerror or error)
    if error.filename == STDOUT:
        return f"cannot write to stdout: {reason}; send it elsewhere, or make room"
    if error.filename:
        return f"{error.filename}: {reason}{system_way_out(error)}"
    if _is_folder_gone():
        return "the folder that this command was called in is gone; go to another, and run again"
    return f"{reason}{system_way_out(error)}"


def _is_folder_gone() -> bool:
    """Return whether the current folder was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _memory_text(error: Exception, command: str, *, goes_on: bool) -> str | None:
    """Return which memory ran out, and the way out; None of an error of another kind.

    Args:
        error: that ended the command.
        command: its name.
        goes_on: whether it, run again, goes on where it stopped.
    """
    note = ""
    if goes_on:
        note = "; what was finished is kept"
    if _is_of_main_memory(error):
        what = "out of memory"
        if reason := one_line(str(error), _MOST_REASON):
            what = f"out of memory ({reason})"
        way_out = "give the job more, or let it take less, as with fewer workers or small batches"
        return f"{what}; {way_out}{note}"
    # torch's, which is not imported here
    if type(error).__name__ == "OutOfMemoryError":
        what = " ".join(["out of GPU memory", *getattr(error, "__notes__", [])])
        automatic = ""
        if command in _WITH_AUTOMATIC_BATCH:
            automatic = ", or auto, which tries what fits"
        way_out = f"use a smaller --batch-size{automatic}, or --precision bfloat16"
        return f"{what}; {way_out}{note}"
    return None


def _is_of_main_memory(error: Exception) -> bool:
    """Return whether an error says that the machine's memory ran out: Python's, numpy's or
    torch's."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def _in_one_line(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn what click says of a command line that it does not understand, several lines, into one.

    Args:
        ctx: of the group, once it is known which command it calls.
    """
    try:
        yield
    except click.UsageError as error:
        # which shows the help; older versions of click have none
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        name = command_name(error.ctx, ctx)
        raise OneLineError(UsageError(usage_text(error, name))) from error


def _own_place() -> str:
    """Return which of several processes tells, once the library is there to ask; nothing of one
    that is alone."""
    console = sys.modules.get("kdcache.runtime.console")
    if console is None:
        return ""
    try:
        name = console.own_name()
    except KdcacheError:  # what the environment says of places is what was wrong
        return ""
    if not name:
        return ""
    return f" ({name})"


def _show_warning(
    message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
) -> None:
    from kdcache.runtime.launch import own_place
    from kdcache.sources.sample_warnings import is_news, sample_warning

    if own_place().rank:
        return
    about = sample_warning(message, category)
    if about is None:
        text = str(message)
    elif is_news(about):
        text = about.text
    else:
        return
    prefix = ""
    if isinstance(message, KdcacheWarning):
        prefix = "kdcache: "
    _print_problem(f"{prefix}warning: {one_line(text, MOST_MESSAGE)}")
