"""What commands print: results on stdout, as text or JSON; errors and warnings as one line on
stderr."""

import codecs
import difflib
import io
import json
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import click

from kdcache.errors import (
    MOST_MESSAGE,
    KdcacheError,
    KdcacheWarning,
    UsageError,
    one_line,
    printable,
)
from kdcache.runtime.stopping import WAY_OUT, StopInterrupt, interrupting, signal_name
from kdcache.runtime.wording import counted, named, ranges

_THAT_GO_ON = (
    *("dump-teacher", "train-student", "merge", "export", "convert", "recode", "push", "pull"),
    "quickstart",
)
"""Commands that, run again, go on where they stopped; `verify` does with a report."""
_GOES_ON = "kdcache.goes_on"
_MOST_REASON = 200
"""Characters of what a library says when memory runs out."""
_MOST_LINES = 10  # of seeds that are told one by one

_ASCII = "kdcache_ascii"


class OneLineError(click.ClickException):
    """A KdcacheError as click shows it: one line, and the error's own exit code."""

    def __init__(self, error: KdcacheError) -> None:
        super().__init__(one_line(str(error), MOST_MESSAGE))
        self.exit_code = error.exit_code  # type: ignore[misc]
        self._is_told = error.is_told_elsewhere

    def show(self, file: Any = None) -> None:
        """Print the line on stderr, unless another process of the run does."""
        if not self._is_told:
            click.echo(f"kdcache: error: {self.message}{_own_place()}", err=True)


class _AsciiEncoder(codecs.IncrementalEncoder):
    """ASCII, and escapes for all else."""

    def encode(self, text: str, final: bool = False) -> bytes:
        return text.encode("ascii", "backslashreplace")


def _ascii_codec(name: str) -> codecs.CodecInfo | None:
    """Return ASCII under another name, since click writes UTF-8 into a stream that calls itself
    ASCII."""
    if name != _ASCII:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_codec.encode,
        ascii_codec.decode,
        name=_ASCII,
        incrementalencoder=_AsciiEncoder,
        incrementaldecoder=ascii_codec.incrementaldecoder,
    )


codecs.register(_ascii_codec)


def escape_what_cannot_be_shown() -> None:
    """Have stdout and stderr escape what their encoding lacks, instead of ending in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        stream.reconfigure(encoding=_ASCII if is_ascii else None, errors="backslashreplace")


_FLAG = re.compile(r"--[a-z-]+")
_RENAMED = {"fidelity": "codec-error"}
"""Commands of former versions, and what they are called now."""


class Group(click.Group):
    """A group whose commands end in one line, whatever was wrong."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Return the context of the words of a command line."""
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names, and note whether, run again, it goes on
        where it stopped."""
        word = args[0]
        rest = args[1:]
        if word in _RENAMED:
            told = f"{word} is called {_RENAMED[word]} now; write kdcache {_RENAMED[word]}"
            raise OneLineError(UsageError(told))
        if self.get_command(ctx, word) is None:
            raise OneLineError(
                UsageError(
                    _unknown(f"there is no command {word!r}", word, self.commands, "kdcache")
                )
            )
        _require_words(word, rest)
        has_report = any(part.partition("=")[0] == "--report" for part in rest)
        goes_on = word in _THAT_GO_ON or (word == "verify" and has_report)
        ctx.meta[_GOES_ON] = goes_on and "--plan" not in rest
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, whatever the terminal can show."""
        escape_what_cannot_be_shown()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; signals end it as Ctrl-C does, but where it has something to keep."""
        with warnings.catch_warnings(), interrupting(), _in_one_line(ctx):
            warnings.simplefilter("always", KdcacheWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KdcacheError as error:
                raise OneLineError(error) from error
            except BrokenPipeError:
                raise
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise OneLineError(KdcacheError(f"{where}{error.strerror or error}")) from error
            except (MemoryError, RuntimeError) as error:
                kept = "; what was finished is kept" if ctx.meta.get(_GOES_ON) else ""
                if _is_of_main_memory(error):
                    raise OneLineError(KdcacheError(_memory_text(error) + kept)) from error
                # torch's, which is not imported here
                if type(error).__name__ != "OutOfMemoryError":
                    raise
                way_out = f"use a smaller --batch-size, or --precision bfloat16{kept}"
                raise OneLineError(KdcacheError(f"out of GPU memory; {way_out}")) from error
            except KeyboardInterrupt as raised:
                stop = raised if isinstance(raised, StopInterrupt) else StopInterrupt(signal.SIGINT)
                way_on = f"; {WAY_OUT}" if ctx.meta.get(_GOES_ON) else ""
                click.echo(f"kdcache: stopped by {signal_name(stop.number)}{way_on}", err=True)
                raise click.exceptions.Exit(stop.exit_code) from None


def _require_words(command: str, words: Sequence[str]) -> None:
    """Refuse empty words, such as those of a variable that is not set, and a `~` that no shell has
    read."""
    from kdcache.config.texts import require_text

    for before, word in pairwise(["", *words]):
        name = f"an argument of {command}"
        text = word
        if word.startswith("--") and "=" in word:
            name, _, text = word.partition("=")
        elif _FLAG.fullmatch(before):
            name = f"{before}, or what follows it,"
        try:
            require_text(text, name)
        except UsageError as error:
            raise OneLineError(error) from error


def _is_of_main_memory(error: Exception) -> bool:
    """Return whether an error says that the machine's memory ran out: Python's, numpy's or
    torch's."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def _memory_text(error: Exception) -> str:
    """Return that memory ran out, for what if that is known, and the way out."""
    reason = one_line(str(error), _MOST_REASON)
    what = f"out of memory ({reason})" if reason else "out of memory"
    return f"{what}; give the job more, or let it take less, as with fewer workers or small batches"


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
        name = _command_name(error.ctx, ctx)
        raise OneLineError(UsageError(_usage_text(error, name))) from error


def _usage_text(error: click.UsageError, name: str) -> str:
    if isinstance(error, click.NoSuchOption):
        parameters = error.ctx.command.get_params(error.ctx) if error.ctx else []
        flags: list[str] = []
        for parameter in parameters:
            flags += parameter.opts
        return _unknown(f"{name} has no option {error.option_name}", error.option_name, flags, name)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        if isinstance(error.param, click.Option):
            wanted = max(error.param.opts, key=len)
        else:
            wanted = error.param.metavar or str(error.param.name).upper()
        return f"{name} needs {wanted}; see {name} --help"
    told = error.format_message().rstrip(".")
    return f"{name}: {told[:1].lower()}{told[1:]}; see {name} --help"


def _command_name(inner: click.Context | None, group: click.Context | None) -> str:
    """Return the words that call a command, however this process was started."""
    named = inner.info_name if inner is not None and inner.parent is not None else None
    if named is None and group is not None:
        named = group.invoked_subcommand
    return f"kdcache {named}" if named else "kdcache"


def _unknown(told: str, word: str, known: Iterable[str], name: str) -> str:
    """Return a line on a word that is not known, with those that begin like it or are spelled
    nearly so."""
    names = sorted(known)
    start = word.strip("-")
    near = [one for one in names if start and one.lstrip("-").startswith(start)]
    near = near or difflib.get_close_matches(word, names, n=2)
    hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
    return f"{told}{hint} ({name} --help lists all)"


def _own_place() -> str:
    """Return which of several processes tells, once the library is there to ask; nothing of one
    that is alone."""
    tracking = sys.modules.get("kdcache.runtime.console")
    try:
        name = tracking.own_name() if tracking else ""
    except KdcacheError:  # what the environment says of places is what was wrong
        return ""
    return f" ({name})" if name else ""


def print_result(
    result: Mapping[str, Any], lines: Sequence[tuple[str, str]], *, as_json: bool
) -> None:
    """Print `result` as JSON, or `lines` of (name, value) aligned; of the processes of one run the
    first does."""
    from kdcache.runtime.distributed import own_place

    if own_place().rank:
        return
    if as_json:
        click.echo(json_text(result))
        return
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {printable(value)}")


def json_text(value: Any, indent: str = "") -> str:
    """Return `value` as JSON, an entry a line; what is a list of numbers stays on one line, since a
    cache that has just been begun may lack a million units."""
    inner = indent + " "
    if isinstance(value, Mapping) and value:
        names = [json.dumps(str(key)) for key in value]
        texts = [json_text(item, inner) for item in value.values()]
        entries = map(": ".join, zip(names, texts, strict=True))
        return "{" + _one_a_line(entries, indent) + "}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "[" + _one_a_line([json_text(item, inner) for item in value], indent) + "]"
    return json.dumps(value, default=list)


def _one_a_line(entries: Iterable[str], indent: str) -> str:
    """Return entries with commas, each on a line that is indented by one more than `indent`."""
    joined = f",\n{indent} ".join(entries)
    return f"\n{indent} {joined}\n{indent}"


def coverage_lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on what a cache was asked to hold and what of it is there, see
    `Coverage.to_json`."""
    asked = found["seeds"]
    complete = found["complete_seeds"]
    missing = found["missing"]
    whole = f"{len(complete)} of {len(asked)} complete"
    if complete:
        whole += f": {named(complete, 'seed')}"
    if found["is_complete"] and complete == asked:
        whole = f"{ranges(asked)}, complete"
    lines = [("seeds", whole)]
    for seed in [*missing][:_MOST_LINES]:
        units = missing[seed]
        total = counted(found["units_per_seed"], "unit")
        lines.append((f"seed {seed}", f"{len(units)} of {total} missing: {ranges(units)}"))
    if (more := len(missing) - _MOST_LINES) > 0:
        lack = "lacks" if more == 1 else "lack"
        lines.append(("and", f"{counted(more, 'more seed')} that {lack} units"))
    if part := found["seeds_in_part"]:
        lines.append(
            ("in part", f"{named(part, 'seed')}: some units were asked for, and they are there")
        )
    if absent := found["seeds_not_begun"]:
        lines.append(("not begun", f"{len(absent)} of {len(asked)}: {named(absent, 'seed')}"))
    return lines


def percent(share: float) -> str:
    """Return a share in percent, with a decimal below 10."""
    digits = 1 if share < 0.0995 else 0
    return f"{100 * share:.{digits}f} %"


def errors_text(errors: Mapping[Any, float]) -> str:
    """Return errors by temperature."""
    return ", ".join(f"{percent(error)} at tau {float(tau):g}" for tau, error in errors.items())


def codec_error_text(errors: Mapping[Any, float]) -> str:
    """Return what a codec does to DIST's gradient, as measured before the dump; nothing if that is
    not known."""
    return f" (turns DIST's gradient by {errors_text(errors)})" if errors else ""


def shell_command(*words: str) -> str:
    """Return words as one line that a shell splits back."""
    return shlex.join(words)


def _show_warning(
    message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
) -> None:
    from kdcache.runtime.distributed import own_place
    from kdcache.sources.sample_warnings import is_news, sample_warning

    if own_place().rank:
        return
    about = sample_warning(message, category)
    if about is not None and not is_news(about):
        return
    text = one_line(str(message) if about is None else about.text, MOST_MESSAGE)
    who = "kdcache: " if isinstance(message, KdcacheWarning) else ""
    click.echo(f"{who}warning: {text}", err=True)
