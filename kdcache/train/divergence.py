"""A loss that grows without end, told while the run can still be stopped."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kdcache.runtime.console import say
from kdcache.train.metrics_log import Metrics

_FAR = 100
"""How many times the first loss, and more, is no training; while the teacher's part is warmed up it
grows by far less."""
_LEAST = 10.0
"""What a loss may rise to: that of a classifier which knows nothing of 22,000 classes. With good
weights the first batch may have a hundredth of what is usual."""


class DivergenceNote:
    """Says once that the loss has grown far, besides another place for lines of metrics.

    An epoch's mean says so by itself. Of logged steps it takes two in a row: one may be an odd
    batch. A run that goes on is told again only if it had not come so far before.
    """

    def __init__(
        self, past: Iterable[Mapping[str, Any]], *, of: str, rate: float, others: Metrics
    ) -> None:
        """Begin after what is past.

        Args:
            past: the run's lines so far.
            of: which run, if there are several.
            rate: its learning rate.
            others: where lines go first.
        """
        self._of = f"{of}: " if of else ""
        self._rate = rate
        self._others = others
        self._first: Mapping[str, Any] | None = None
        self._was_far = False
        self._is_told = False
        for line in past:
            self._look(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Pass the line on, and say that the loss has grown if this is the first line to tell."""
        self._others.write(line)
        was_told = self._is_told
        self._look(line)
        if was_told or not self._is_told:
            return
        grown = f"is {_loss_of(line)}"
        if self._first is not None:
            grown = f"has grown from {_loss_of(self._first)} to {_loss_of(line)}"
        say(
            f"note: {self._of}the loss {grown}; a lower optimizer.lr ({self._rate:g}), or"
            " clip_grad, may keep it small"
        )

    def _look(self, line: Mapping[str, Any]) -> None:
        """Take what a line says of the loss."""
        loss = line.get("loss", 0.0)
        most = math.inf
        if self._first is not None:
            most = max(_FAR * self._first["loss"], _LEAST)
        elif 0 < loss < math.inf:
            self._first = line
        is_far = not loss <= most  # NaN, too
        if is_far and (self._was_far or line["kind"] == "epoch"):
            self._is_told = True
        if line["kind"] == "step":
            self._was_far = is_far


def _loss_of(line: Mapping[str, Any]) -> str:
    """Return a loss, and when it was that."""
    if line["kind"] == "epoch":
        return f"{line['loss']:.4g} in epoch {line['epoch']}"
    return f"{line['loss']:.4g} at step {line['step']}"
