"""What commands print: results on stdout, as text or JSON; errors and warnings as one line on stderr."""

import json
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click

from kdcache.errors import MOST_MESSAGE, KdcacheError, KdcacheWarning, one_line, printable


class OneLineError(click.ClickException):
    """A KdcacheError as click shows it: one line, and the error's own exit code."""

    def __init__(self, error: KdcacheError) -> None:
        super().__init__(one_line(str(error), MOST_MESSAGE))
        self.exit_code = error.exit_code  # type: ignore[misc]
        self._is_told = error.is_told_elsewhere

    def show(self, file: Any = None) -> None:
        """Print the line on stderr, unless another process of the run does."""
        if not self._is_told:
            click.echo(f"kdcache: error: {self.message}", err=True)


class Group(click.Group):
    """A group whose commands end in one line when they raise a KdcacheError."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with warnings.catch_warnings():
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
            except RuntimeError as error:
                if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                    raise
                way_out = "use a smaller --batch-size, or --precision bfloat16"
                raise OneLineError(KdcacheError(f"out of GPU memory; {way_out}; what was finished is kept")) from error
            except KeyboardInterrupt:
                click.echo("kdcache: interrupted; run the same command again to go on", err=True)
                raise click.exceptions.Exit(130) from None


def print_result(result: Mapping[str, Any], lines: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    """Print `result` as JSON, or `lines` of (name, value) aligned; of the processes of one run the first does."""
    from kdcache.distributed import own_place

    if own_place().rank:
        return
    if as_json:
        # piece by piece: of a cache that has just been begun the missing units may be a million a
        # seed
        sys.stdout.writelines(json.JSONEncoder(indent=1, default=list).iterencode(result))
        click.echo()
        return
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {printable(value)}")


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as `0 to 3, 7`."""
    if hasattr(numbers, "spans"):  # of a million units that are missing the ranges are few
        return ", ".join(_span_text(span[0], span[-1]) for span in numbers.spans()) or "none"
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(_span_text(first, last) for first, last in spans) or "none"


def _span_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def percent(share: float) -> str:
    """Return a share in percent, with a decimal below 10."""
    return f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


def errors_text(errors: Mapping[Any, float]) -> str:
    """Return errors by temperature."""
    return ", ".join(f"{percent(error)} at tau {float(tau):g}" for tau, error in errors.items())


def codec_error_text(errors: Mapping[Any, float]) -> str:
    """Return what a codec does to DIST's gradient, as measured before the dump; nothing if that is not known."""
    return f" (turns DIST's gradient by {errors_text(errors)})" if errors else ""


def shell_command(*words: str) -> str:
    """Return words as one line that a shell splits back."""
    return shlex.join(words)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    from kdcache.distributed import own_place

    if own_place().rank:
        return
    text = one_line(str(message), MOST_MESSAGE)
    click.echo(f"kdcache: warning: {text}" if isinstance(message, KdcacheWarning) else f"warning: {text}", err=True)
