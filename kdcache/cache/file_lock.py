"""Lock files, by which processes and threads take turns at making a file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

_held_files: set[IO[bytes]] = set()
"""Lock files that this process has open."""


@contextmanager
def kept_from_children(file: IO[bytes]) -> Iterator[None]:
    """Let no child that is forked meanwhile, such as a loader worker, hold the lock of a file too:
    it would hold it on when this process is killed."""
    _held_files.add(file)
    try:
        yield
    finally:
        _held_files.discard(file)


def _close_in_child() -> None:
    for file in _held_files:
        file.close()
    _held_files.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let no other process or thread make the file `path` meanwhile; one that is killed lets go by
    itself.

    Where files cannot be locked they all go on at once: each then makes the file for itself, and
    the last one's stays.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
        yield


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is there only as long as someone holds it or waits for it.

    Raises:
        OSError: locks are not to be had here, or not `wait` and another holds it.
    """
    operation = fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    while True:
        with path.open("ab") as file, kept_from_children(file):
            try:
                fcntl.flock(file, operation)
            except BlockingIOError:
                raise
            except OSError:
                path.unlink(missing_ok=True)  # no locks here: nobody holds it
                raise
            # Only who holds the lock removes the file. Who waited for it meanwhile then holds a
            # file without a name, which others no longer find: so it looks whether the name is
            # still that of its file, and if not begins anew.
            is_named = has_name(file.fileno(), path)
            try:
                if is_named:
                    yield
                    return
            finally:
                if is_named:
                    with suppress(OSError):
                        path.unlink()
                # closing would not do: a program of the user's may have been started meanwhile
                fcntl.flock(file, fcntl.LOCK_UN)


def has_name(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at `path`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
