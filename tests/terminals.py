"""Commands on a terminal of so many columns."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from nursery import fork_server, take

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(words: Sequence[str], *, columns: int = 80, lines: int = 24) -> tuple[int, str]:
    """Return the exit code of a command, and all that its terminal was given, without escapes."""
    own, terminal = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = fork_server().Process(
        target=_at, args=(os.ttyname(terminal), dict(os.environ), words)
    )
    process.start()
    with ThreadPoolExecutor(1) as reader:
        text = reader.submit(_all_of, own)
        process.join()
        os.close(terminal)  # held until here, for a terminal that nobody holds has ended
    os.close(own)
    assert process.exitcode is not None
    return process.exitcode, _ESCAPE.sub("", text.result()).replace("\r\n", "\n")


def _at(terminal: str, environment: dict[str, str], words: Sequence[str]) -> None:
    take({**environment, "TERM": "xterm"})
    os.environ.pop("COLUMNS", None)
    descriptor = os.open(terminal, os.O_RDWR)
    for stream in range(3):
        os.dup2(descriptor, stream)
    # as Python opens them on a terminal: with an end of each line what was written comes
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115

    from kdcache_cli import main

    main(words, prog_name="kdcache")


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
