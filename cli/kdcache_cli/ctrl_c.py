"""Ctrl-C where no command hears it: before one begins and after it has ended."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end this process in the block, without a traceback: there is nothing to keep."""
    is_mine = _is_pythons()
    if is_mine:
        end_at_once()
    try:
        yield
    finally:
        if is_mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def end_at_once() -> None:
    """Let Ctrl-C end this process from now on, but for what hears signals itself."""
    if _is_pythons():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_pythons() -> bool:
    """Return whether Ctrl-C would be a KeyboardInterrupt, and this thread may change that."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
