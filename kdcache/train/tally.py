"""The losses and times of the epoch that is at work."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcache.runtime.console import Clock


class EpochTally:
    """Sums of an epoch's losses, on the device, and a clock that counts what waits are part of
    it."""

    def __init__(self) -> None:
        """Begin with no step, now."""
        self.clock = Clock()
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the loss of a step and its terms."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self, num_steps: int) -> dict[str, float]:
        """Return the mean loss and terms of so many steps."""
        means = {}
        for name, value in scalars(self._sums).items():
            means[name] = value / max(num_steps, 1)
        return means

    def state(self, *, has_begun: bool) -> dict[str, Any]:
        """Return the sums and, of an epoch that has begun, the times, as plain values."""
        times = {}
        if has_begun:
            times = {"total": self.clock.total(), **self.clock.parts}
        return {"sums": scalars(self._sums), "clock": times}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state`."""
        self.clock = Clock(**state["clock"])
        self._sums = {}
        for name, value in state["sums"].items():
            self._sums[name] = torch.tensor(value, device=device)


def scalars(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the values of tensors of one number each, after a single wait for the device."""
    if not tensors:
        return {}
    values = torch.stack(list(tensors.values())).tolist()
    return dict(zip(tensors, values, strict=True))
