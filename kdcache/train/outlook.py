"""How long the rest of a run takes, its evaluations included."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kdcache.runtime.wording import human_seconds


class Outlook:
    """What steps and evaluations took so far, in this process, and how many are to come."""

    def __init__(self) -> None:
        self._steps_left = 0
        self._evaluations_left = 0
        self._num_steps = 0
        self._num_evaluations = 0
        self._step_seconds = 0.0
        self._evaluation_seconds = 0.0
        self._last = 0.0

    def start_epoch(self, *, steps_left: int, evaluations_left: int) -> None:
        """Count from now on.

        Args:
            steps_left: of the whole run.
            evaluations_left: of the whole run, that of this epoch included.
        """
        self._steps_left = steps_left
        self._evaluations_left = evaluations_left
        self._last = time.monotonic()

    def end_step(self) -> None:
        """Count a step."""
        now = time.monotonic()
        self._step_seconds += now - self._last
        self._last = now
        self._num_steps += 1
        self._steps_left -= 1

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Count the evaluation in the block, if one is to come."""
        start = time.monotonic()
        yield
        if not self._evaluations_left:
            return
        self._evaluation_seconds += time.monotonic() - start
        self._num_evaluations += 1
        self._evaluations_left -= 1

    def text(self) -> str:
        """Return how long the rest takes, such as `3.5 min left`; nothing before the first step,
        and at the end."""
        if not self._num_steps or not (self._steps_left or self._evaluations_left):
            return ""
        seconds = self._steps_left * self._step_seconds / self._num_steps
        if self._num_evaluations:
            seconds += self._evaluations_left * self._evaluation_seconds / self._num_evaluations
            return f"{human_seconds(seconds)} left"
        if self._evaluations_left:
            return f"{human_seconds(seconds)} left, evaluation not counted"
        return f"{human_seconds(seconds)} left"
