"""Waits that say what they wait for, and work in the background that ends with the process."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from kdcache.runtime.console import LINE_SECONDS, say
from kdcache.runtime.launch import own_place

T = TypeVar("T")

_LOOKS_PER_LINE = 30
_END_SECONDS = 2.0


@dataclass(eq=False)
class _Wait:
    what: str | Callable[[], str]
    start: float
    last_line: float
    """When it was said last."""


class _Beat:
    """A thread that says, every 30 seconds, what others wait for, who may be deep in a library."""

    def __init__(self) -> None:
        self._waits: dict[int, list[_Wait]] = {}
        """Of each thread, the innermost last."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wakes = threading.Event()

    def add(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.setdefault(threading.get_ident(), []).append(wait)
            if self._thread is None or not self._thread.is_alive():  # also in a forked child
                self._thread = threading.Thread(target=self._run, name="kdcache-beat", daemon=True)
                self._thread.start()
        self._wakes.set()

    def remove(self, wait: _Wait) -> None:
        with self._lock:
            own_waits = self._waits[threading.get_ident()]
            own_waits.remove(wait)
            if not own_waits:
                del self._waits[threading.get_ident()]

    def _run(self) -> None:
        while True:
            self._wakes.wait()
            time.sleep(LINE_SECONDS / _LOOKS_PER_LINE)
            now = time.monotonic()
            with self._lock:
                innermost = [waits[-1] for waits in self._waits.values()]
                if not innermost:
                    self._wakes.clear()
            for wait in innermost:
                if now - wait.last_line >= LINE_SECONDS:
                    _tell(wait)


_beat = _Beat()


@contextmanager
def waiting(what: str | Callable[[], str]) -> Iterator[None]:
    """Say every 30 seconds what the block waits for, in every process of a run, with its rank.

    Args:
        what: is said after `waiting for`; a function is asked each time.
    """
    now = time.monotonic()
    wait = _Wait(what, now, now)
    _beat.add(wait)
    try:
        yield
    finally:
        _beat.remove(wait)


def _tell(wait: _Wait) -> None:
    now = time.monotonic()
    wait.last_line = now
    what = wait.what
    if callable(what):
        what = what()
    message = f"waiting for {what} ({now - wait.start:.0f} s so far)"
    place = own_place()
    if place.world_size > 1:
        message = f"rank {place.rank}: {message}"
    say(message, by_all=True)


class Background:
    """Does one thing after the other in threads that do not keep the process from ending."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Have `function` called after those before it; return its result to come."""
        future: Future[T] = Future()
        before = self._last

        def run() -> None:
            if before is not None:
                before.join()
            try:
                future.set_result(function())
            except BaseException as error:  # whatever it is, it belongs to who asks for the result
                future.set_exception(error)

        # not an executor's thread: for those Python waits at the end, however long they take
        self._last = threading.Thread(target=run, name="kdcache-background", daemon=True)
        _threads.add(self._last)
        self._last.start()
        return future


def in_background(function: Callable[[], T]) -> "Future[T]":
    """Have `function` called in such a thread; return its result to come."""
    return Background().submit(function)


def pause(seconds: float) -> None:
    """Sleep, in a thread in the background until the process ends.

    Raises:
        RuntimeError: it ends.
    """
    if _is_ending.wait(seconds):
        raise RuntimeError("the process ends")


_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()
_is_ending = threading.Event()


@atexit.register
def _end_threads() -> None:
    """Give threads a moment: one in foreign code could take the process down with Python."""
    _is_ending.set()
    end = time.monotonic() + _END_SECONDS
    for thread in [*_threads]:
        thread.join(max(end - time.monotonic(), 0))
