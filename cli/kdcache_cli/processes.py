"""Commands in processes of their own, forked from one that has imported torch once for all; on
macOS, where a fork may not use what its parent has loaded, each imports it for itself."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kdcache.runtime.stopping import starting_blocked, unblock_signals

_PRELOADED = ["kdcache.dump.run", "kdcache.train.run", "timm"]
"""What these commands import."""
if sys.platform == "darwin":
    _CONTEXT = multiprocessing.get_context("spawn")
else:
    _CONTEXT = multiprocessing.get_context("forkserver")


def run_command(words: Sequence[str], *, stdout: Path, stderr: Path) -> int:
    """Run `kdcache WORDS` in a new process, with its output in files; return its exit code.

    Where stderr is a terminal here, its progress is shown there all the same.
    """
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process = _CONTEXT.Process(target=_run, args=(list(words), str(stdout), str(stderr)))
    with starting_blocked(_CONTEXT.get_start_method()):
        process.start()
    try:
        process.join()
    finally:
        # stopped meanwhile: it keeps what it has, and ends
        process.terminate()
        process.join()
    assert process.exitcode is not None, "it has ended"
    return process.exitcode


def _run(words: list[str], stdout: str, stderr: str) -> None:
    """Run a command here; stdout and stderr are files from now on."""
    unblock_signals()
    from kdcache.runtime.console import draw_bars_on
    from kdcache_cli.commands import main

    if sys.stderr.isatty():
        terminal = os.dup(sys.stderr.fileno())
        draw_bars_on(os.fdopen(terminal, "w", encoding=sys.stderr.encoding))
    for stream, path in ((sys.stdout, stdout), (sys.stderr, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, stream.fileno())
        os.close(file)
    main(words, prog_name="kdcache")
