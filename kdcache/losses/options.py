"""The options of a loss: their ranges, and what they make it require."""

import dataclasses
import math
from typing import Any, ClassVar

from kdcache.errors import UsageError
from kdcache.losses.protocol import Need
from kdcache.shapes import Activation


class LossOptions:
    """What the losses share: their options are checked, and they need a teacher unless they say
    otherwise."""

    name: ClassVar[str]
    """The name in its spec."""
    weights: ClassVar[tuple[str, ...]] = ()
    """The options that are weights, if each term has one: they cannot all be 0."""

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher"})

    @property
    def batch_tau(self) -> float | None:
        """None: most losses look at each view alone."""
        return None

    @property
    def parts(self) -> tuple[Any, ...]:
        """The loss itself."""
        return (self,)

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_positions(self)
        _check_weights(self)

    def require_size(self, rows: int, classes: int) -> None:
        """Do nothing: most losses take any number."""


def needs_of(
    standardize: bool = False,
    ignore_masked: bool = False,
    positions: float = 1.0,
    activation: Activation | None = None,
) -> frozenset[Need]:
    """Return what a loss on probabilities requires with these options: sigmoids, too, are taken of
    logits."""
    needs: set[Need] = {"teacher"}
    if standardize or activation == "sigmoid":
        needs.add("logits")
    if ignore_masked:
        needs.add("masks")
    if positions < 1:
        needs.add("positions")
    return frozenset(needs)


def _check_numbers(loss: Any) -> None:
    """Raise a UsageError if a weight of a loss is negative, its temperature not above 0, or either
    not finite."""
    for name, value in dataclasses.asdict(loss).items():
        if value is None or isinstance(value, str):
            continue
        numbers = value
        if not isinstance(value, tuple):
            numbers = (value,)
        for number in numbers:
            _check_number(loss.name, name, number)


def _check_number(loss: str, name: str, number: float) -> None:
    """Raise a UsageError for a weight or temperature out of its range."""
    bound = "0 or more"
    is_tau = name in ("tau", "taus")
    if is_tau:
        bound = "above 0"
    if not math.isfinite(number) or number < 0 or (is_tau and number == 0):
        raise UsageError(f"loss {loss}: {name}={number} must be {bound}")


def _check_positions(loss: Any) -> None:
    """Raise a UsageError if a loss compares no share of the positions, or more than all."""
    positions = getattr(loss, "positions", 1.0)
    if not 0 < positions <= 1:
        raise UsageError(
            f"loss {loss.name}: positions={positions:g} must be above 0 and at most 1, which is all"
        )


def _check_weights(loss: Any) -> None:
    """Raise a UsageError if all terms of a loss are without weight."""
    if loss.weights and not any(getattr(loss, name) for name in loss.weights):
        raise UsageError(
            f"loss {loss.name}: with {'=0 and '.join(loss.weights)}=0 there is"
            " nothing to train on; give one of them a weight"
        )
