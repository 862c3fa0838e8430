"""Requests that are tried again, and what the user is told meanwhile."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from random import SystemRandom
from typing import TypeVar

from kdcache.errors import CacheError
from kdcache.runtime.console import say

T = TypeVar("T")
_RANDOM = SystemRandom()  # views are drawn from the global generators


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long requests are waited for, in seconds."""

    connect: float = 5.0
    """Until a connection is made."""
    answer: float = 15.0
    """Without a byte of an answer, until a request counts as lost."""
    pauses: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, *(4.0,) * 8)
    """Before each further try; at random somewhat less, so that workers do not come back at
    once."""
    trouble: float = 30.0
    """In all, after which no other try begins."""
    first_contact: float = 3.0
    """The same where nothing was ever reached: most likely an address is wrong."""
    silence: float = 8.0
    """Until the user is told that something is waited for."""
    repeats: float = 30.0
    """Between two such notes."""


class Tries:
    """The tries of one request."""

    def __init__(self, what: str, patience: Patience) -> None:
        """Begin with the first.

        Args:
            what: names the request in notes: `read s3://bucket/cache/zarr.json`.
            patience: how long it is waited for.
        """
        self._what = what
        self._patience = patience
        self._start = time.monotonic()
        self._next_note = patience.silence
        self._is_told = False
        self.number = 1

    def run(self, action: Callable[[], T]) -> T:
        """Return what `action` gives; while it takes its time, say so.

        It runs in another thread, for a request of obstore cannot be interrupted, and this one can.

        Raises:
            CacheError: obstore cannot make the request.
        """
        answer: Future[T] = Future()
        threading.Thread(
            target=_run, args=(action, answer), name="kdcache-request", daemon=True
        ).start()
        while True:
            wait([answer], max(self._next_note - self._seconds, 0.01))
            if answer.done():
                return self._result(answer)
            self._tell(f"still waiting, {self._seconds:.0f} s so far (try {self.number})")

    def can_go_on(self, *, is_first_contact: bool) -> bool:
        """Return whether there is to be another try.

        Args:
            is_first_contact: whether nothing was ever reached there.
        """
        if self.number > len(self._patience.pauses):
            return False
        if is_first_contact:
            return self._seconds < self._patience.first_contact
        # a request that hangs may take all of the time alone
        return self.number == 1 or self._seconds < self._patience.trouble

    def pause(self, reason: str) -> None:
        """Wait before another try, and say so if the user has waited for long, or is about to."""
        seconds = self._patience.pauses[self.number - 1] * _RANDOM.uniform(0.5, 1.0)
        self.number += 1
        if self._seconds + seconds >= self._next_note:
            self._tell(f"{reason}; try {self.number} follows, {self._seconds:.0f} s so far")
        time.sleep(seconds)

    def end(self) -> None:
        """Say that all is well again, if the user was told that it is not."""
        if self._is_told:
            say(f"note: {self._what}: answered after {self._seconds:.0f} s; going on", by_all=True)

    def _result(self, answer: "Future[T]") -> T:
        error = answer.exception()
        if error is None or isinstance(error, Exception):
            return answer.result()
        reason = " ".join(str(error).split())[:200]  # a panic of Rust's
        raise CacheError(
            f"cannot {self._what}: {reason}; see the variables in the environment that are for this"
            " store"
        )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _tell(self, text: str) -> None:
        say(f"note: {self._what}: {text}", by_all=True)
        self._is_told = True
        self._next_note = self._seconds + self._patience.repeats


def _run(action: Callable[[], T], answer: "Future[T]") -> None:
    try:
        answer.set_result(action())
    except BaseException as error:
        answer.set_exception(error)
