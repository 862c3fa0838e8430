"""Commands on a terminal of so many columns."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nursery import fork_server, take

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def command(words: Sequence[str]) -> None:
    """Run a command."""
    from kdcache_cli import main

    main(words, prog_name="kdcache")


def step(words: Sequence[str]) -> None:
    """Run a command as the quickstart runs it, with its output in the first two files."""
    from kdcache_cli import processes

    processes._PRELOADED = []  # what a command without torch does not need
    out, log, *rest = words
    sys.exit(processes.run_command(rest, stdout=Path(out), stderr=Path(log)))


def on_terminal(
    words: Sequence[str],
    *,
    columns: int = 80,
    lines: int = 24,
    run: Callable[[Sequence[str]], None] = command,
) -> tuple[int, str]:
    """Return the exit code of a command, and all that its terminal was given, without escapes."""
    own, terminal = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = fork_server().Process(
        target=_at, args=(os.ttyname(terminal), dict(os.environ), words, run)
    )
    process.start()
    with ThreadPoolExecutor(1) as reader:
        text = reader.submit(_all_of, own)
        process.join()
        os.close(terminal)  # held until here, for a terminal that nobody holds has ended
    os.close(own)
    assert process.exitcode is not None
    return process.exitcode, _ESCAPE.sub("", text.result()).replace("\r\n", "\n")


def _at(
    terminal: str,
    environment: dict[str, str],
    words: Sequence[str],
    run: Callable[[Sequence[str]], None],
) -> None:
    take({**environment, "TERM": "xterm"})
    os.environ.pop("COLUMNS", None)
    descriptor = os.open(terminal, os.O_RDWR)
    for stream in range(3):
        os.dup2(descriptor, stream)
    # as Python opens them on a terminal: with an end of each line what was written comes
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    run(words)


def _all_of(descriptor: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # the end, as Linux tells it
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()
