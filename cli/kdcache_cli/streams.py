"""stdin, stdout and stderr as a program finds them: closed, on a full disk, or on a terminal that
is gone."""

import io
import os
import sys
from typing import TextIO

STDOUT = "stdout"
"""What errors of it have for a file's name."""


class _Results(io.FileIO):
    """Where results go: that they cannot be written is told once, and as an error of stdout."""

    _is_lost = False

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write bytes, and return how many are done with.

        Raises:
            OSError: they cannot be written; those that follow are dropped.
        """
        if self._is_lost:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self._is_lost = True
            raise OSError(error.errno, error.strerror, STDOUT) from error


class _Messages(io.FileIO):
    """Where messages go: those that cannot be written are dropped, and end no work."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write bytes, and return how many are done with.

        Raises:
            BrokenPipeError: whoever read them is gone, as `head` is when it has enough.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Open the streams that are closed on nothing, tell errors of stdout as such, and let no
    message on stderr end the work."""
    # rising: each gets the lowest number that is free, which is its own and no file of ours may get
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(nothing.fileno(), True)
            setattr(sys, name, nothing)
        elif name == "stdout":
            sys.stdout = _text(_Results(1, "w", closefd=False), sys.stdout)
        elif name == "stderr":
            sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def _text(file: io.FileIO, before: TextIO) -> io.TextIOWrapper:
    """Return a stream of text into a file, encoded as the one before it."""
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=True,
    )
