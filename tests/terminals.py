"""Commands on a terminal of so many columns."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(words: Sequence[str], *, columns: int = 80, lines: int = 24) -> tuple[int, str]:
    """Return the exit code of a command, and all that its terminal was given, without escapes."""
    own, terminal = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = dict(os.environ, TERM="xterm", PYTHONPATH=paths)
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "kdcache", *words]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        text = _all_of(own)
    os.close(own)
    return process.returncode, _ESCAPE.sub("", text).replace("\r\n", "\n")


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
