"""Whether this process was told to stop: by Ctrl-C, by a scheduler that ends its job, or by hand.

Signals are all heard here, and nowhere else. Where nothing would be lost they end a command at
once: `interrupting`. A loop that has something to keep `heeds` them: the first one is remembered,
and the loop ends itself at the next `look`. A second Ctrl-C ends it at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any, NoReturn, TypeVar

from kdcache.errors import KdcacheError, StoppedError
from kdcache.runtime.launch import own_place

T = TypeVar("T")

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""What schedulers, launchers and users send to end a process in good order."""
AGAIN_SECONDS = 1.0
"""A second Ctrl-C counts from then on: one may arrive twice, from the terminal and a launcher."""
WAY_OUT = "run the same command again to go on"
_LATER_SECONDS = 0.01
_FIRST_EXIT_CODE = 128  # of a process that a signal ended, as shells tell it


class StopInterrupt(KeyboardInterrupt):
    """A signal ends what is under way, here and now."""

    def __init__(self, number: int) -> None:
        super().__init__(signal_name(number))
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a process returns that this signal ended."""
        return _FIRST_EXIT_CODE + self.number


def _keep_nothing() -> str:
    return ""


class _State:
    """What this process knows; changed in its main thread only."""

    def __init__(self) -> None:
        self.number = 0
        """The first signal that came, 0 for none."""
        self.since = 0.0
        self.depth = 0
        self.is_heeded = False
        self.keep: Callable[[], str] = _keep_nothing
        """Keeps what there is to keep when a signal ends the work, and says so."""
        self.starts_apart = False


_state = _State()


class _Own(threading.local):
    """What a thread knows that forks."""

    def __init__(self) -> None:
        self.mask: Container[int] = ()
        """The signals that it had blocked before."""
        self.is_in_callback = False
        """Whether it is in what `os.fork` calls afterwards: what is raised there is lost."""


_own = _Own()


def signal_name(number: int) -> str:
    """Return the name of a signal: SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def interrupting() -> Iterator[None]:
    """Let a signal end the block at once, by StopInterrupt, but where something inside heeds it."""
    with _hearing(is_heeded=False, keep=_state.keep):
        yield


@contextmanager
def heeding(keep: Callable[[], str]) -> Iterator[None]:
    """Remember a signal instead of ending; the block must `look` where nothing would be lost.

    Args:
        keep: called when the block ends for a signal. It keeps what there is to keep, and returns
            how the message goes on after `stopped by SIGTERM`: `: 79 units written`.
    """
    with _hearing(is_heeded=True, keep=keep):
        yield


@contextmanager
def hearing_again() -> Iterator[None]:
    """Hear signals as before, where a library may have taken them over meanwhile."""
    with _hearing(is_heeded=_state.is_heeded, keep=_state.keep):
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Bring back at the end what handled signals before: a library may leave its own behind."""
    if threading.current_thread() is not threading.main_thread():  # where Python sets no handler
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: set outside Python, which cannot be brought back
                signal.signal(number, handler)


@contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end the block at once, though it is heeded around it: nothing would be lost.

    Raises:
        StoppedError: it came, in the block or before.
    """
    if not _state.is_heeded:
        yield
        return
    look()
    try:
        with _hearing(is_heeded=False, keep=_state.keep):
            yield
    except StopInterrupt:
        look()
        raise


def stop_requested() -> int:
    """Return the signal that told this process to stop, 0 for none."""
    return _state.number


def take(number: int) -> None:
    """Stop as another process of the run was told to."""
    _state.number = number


def look() -> None:
    """End here if this process was told to stop.

    Raises:
        StoppedError: it was.
    """
    if _state.number:
        _stop(_state.number)


def until_stopped(items: Iterable[T]) -> Iterator[T]:
    """Yield `items` until this process is told to stop; work on those before can end well."""
    for item in items:
        if _state.number:
            return
        yield item


@contextmanager
def starting_apart() -> Iterator[None]:
    """Start child processes that no signal to all processes of a job ends: `outlive_signals`."""
    _state.starts_apart = True
    try:
        with starting_blocked(multiprocessing.get_start_method()):
            yield
    finally:
        _state.starts_apart = False


@contextmanager
def starting_blocked(method: str) -> Iterator[None]:
    """Start child processes, by a method of multiprocessing, that begin with signals blocked, but
    for forks of this one: Ctrl-C in the middle of what they import would print a traceback, or end
    them. So do the processes of multiprocessing's own; see `unblock_signals`."""
    if method == "fork":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # once more: some are let through by then
        if method == "forkserver":
            forkserver.ensure_running()
            _unblock_all_but(before)  # its children have its own mask
        yield
    finally:
        _unblock_all_but(before)


def outlive_signals() -> None:
    """Pass over all signals that ask to stop; for a child process that its parent will end.

    They are handled, not ignored, so that programs that the child starts do not inherit it.
    """
    _state.starts_apart = False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _pass_over)
            signal.siginterrupt(number, False)
    _unblock_all_but(())


def unblock_signals() -> None:
    """Let signals come in a child that was started by `starting_blocked`."""
    _unblock_all_but(())


@contextmanager
def _hearing(*, is_heeded: bool, keep: Callable[[], str]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where Python runs no handler
        yield
        return
    was_heeded = _state.is_heeded
    outer_keeping = _state.keep
    handlers = _installed()
    _state.is_heeded = is_heeded
    _state.keep = keep
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        _state.is_heeded = was_heeded
        _state.keep = outer_keeping
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if not _state.depth:
            _state.number = 0


def _installed() -> dict[signal.Signals, Any]:
    """Handle every signal that is not ignored; return the handlers before."""
    handlers: dict[signal.Signals, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # None: handled outside Python, which could not be brought back
        if handler not in (signal.SIG_IGN, None):
            handlers[number] = handler
    for number in handlers:
        signal.signal(number, _handle)
    return handlers


def _handle(number: int, frame: FrameType | None) -> None:
    if _own.is_in_callback:
        _send_later(number)
        return
    is_first = not _state.number
    if is_first:
        _state.number = number
        _state.since = time.monotonic()
        if _state.is_heeded:
            _acknowledge(number)
            return
    elif number != signal.SIGINT or time.monotonic() - _state.since < AGAIN_SECONDS:
        return
    raise StopInterrupt(number)


def _acknowledge(number: int) -> None:
    """Say that the signal was heard, with a system call: it may come in the middle of a print."""
    with suppress(OSError, ValueError, KdcacheError):
        if own_place().rank == 0:
            name = signal_name(number)
            line = f"kdcache: {name}: stopping; what is done is kept (Ctrl-C ends it at once)\n"
            os.write(sys.stderr.fileno(), line.encode())


def _send_later(number: int) -> None:
    """Send this process a signal when the fork that is under way should be over."""
    sender = threading.Timer(_LATER_SECONDS, os.kill, (os.getpid(), number))
    sender.daemon = True
    sender.start()


def _pass_over(number: int, frame: FrameType | None) -> None:
    pass


def _stop(number: int) -> NoReturn:
    error = StoppedError(f"stopped by {signal_name(number)}{_state.keep()}; {WAY_OUT}")
    error.exit_code = _FIRST_EXIT_CODE + number
    raise error


def _before_fork() -> None:
    _own.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork_in_parent() -> None:
    _own.is_in_callback = True
    try:
        _unblock_all_but(_own.mask)
    finally:
        _own.is_in_callback = False


def _after_fork_in_child() -> None:
    """Leave signals blocked in a child that outlives them; let them end others, as always."""
    if _state.starts_apart:
        return
    _state.number = 0
    _state.is_heeded = False
    for number in SIGNALS:
        if signal.getsignal(number) is not _handle:
            continue
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        else:
            signal.signal(number, signal.SIG_DFL)
    _unblock_all_but(_own.mask)


def _unblock_all_but(blocked: Container[int]) -> None:
    """Let signals come that wait, one by one: frames of several may not fit on their stack."""
    for number in SIGNALS:
        if number not in blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


# Signals wait for the fork itself: none can come to a child that still has its parent's handlers.
# In the parent none is lost.
os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
