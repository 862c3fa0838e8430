"""Means over repeats, their standard errors, and differences in pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over repeats."""

    count: int
    mean: float
    error: float | None
    """The standard error of the mean, from the spread of the repeats; None of a single one."""
    low: float
    """The smallest of the repeats."""
    high: float
    """The largest of the repeats."""

    @property
    def band(self) -> tuple[float, float]:
        """One standard error below the mean and above it; the mean twice of a single repeat."""
        error = self.error or 0.0
        return self.mean - error, self.mean + error

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "n": self.count,
            "mean": self.mean,
            "standard_error": self.error,
            "lowest": self.low,
            "highest": self.high,
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher one line is than another, from repeats with the same seeds."""

    estimate: Estimate
    num_higher: int
    """Pairs in which it is higher."""

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**self.estimate.to_json(), "higher_in": self.num_higher}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of some values and its standard error; None of no values.

    The error is the sample's standard deviation, with n - 1, divided by the square root of n.
    """
    count = len(values)
    if not count:
        return None
    mean = math.fsum(values) / count
    error = None
    if count > 1:
        squares = [(value - mean) ** 2 for value in values]
        error = math.sqrt(math.fsum(squares) / (count - 1) / count)
    return Estimate(count=count, mean=mean, error=error, low=min(values), high=max(values))


def paired_difference(
    values: Mapping[Any, float], others: Mapping[Any, float]
) -> Difference | None:
    """Return how much higher `values` are than `others`, over the keys that both have; None if they
    share none."""
    differences = [value - others[key] for key, value in values.items() if key in others]
    mean = estimate(differences)
    if mean is None:
        return None
    num_higher = sum(difference > 0 for difference in differences)
    return Difference(estimate=mean, num_higher=num_higher)
