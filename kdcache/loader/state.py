"""What a loader's state must hold for a loader to go on from it."""

from collections.abc import Mapping
from operator import index
from typing import Any

from torch import Tensor

from kdcache.errors import MismatchError, UsageError, quoted

_STATE = ("epoch", "epoch_step", "seeds", "left_out", "identity")
"""What a loader's state has at least."""


def require_state(state: Any) -> None:
    """Raise a UsageError if a state is none of a loader."""
    if not isinstance(state, dict):
        raise UsageError(
            f"the state is {quoted(state)}; give what state_dict() of a loader returned"
        )
    absent_names = [name for name in _STATE if name not in state]
    if absent_names:
        raise UsageError(
            f"the state lacks {', '.join(absent_names)}; give what state_dict() of a loader"
            " returned"
        )
    is_right = {
        "epoch": whole_number(state["epoch"]) is not None,
        "epoch_step": whole_number(state["epoch_step"]) is not None,
        "seeds": _are_seeds(state["seeds"]),
        "left_out": isinstance(state["left_out"], Tensor),
        "identity": isinstance(state["identity"], dict),
        "order": isinstance(state.get("order", {}), dict),
    }
    for name, is_entry_right in is_right.items():
        if not is_entry_right:
            raise UsageError(
                f"the state's {name} is {quoted(state[name])}; give what state_dict() of a loader"
                " returned"
            )


def require_identity(state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Raise a MismatchError if a state is of other data, another recipe, teacher or cache."""
    for name, value in identity.items():
        state_value = state["identity"].get(name)
        if state_value != value:
            raise MismatchError(
                f"the state is of another {name} ({state_value} there, {value} now); give the one"
                " that it is of"
            )


def require_order(state: Mapping[str, Any], order: Mapping[str, Any]) -> None:
    """Raise a MismatchError if steps count in another order; states of old versions tell none."""
    state_order = state.get("order", {})
    for name, value in order.items():
        state_value = state_order.get(name, value)
        if state_value != value:
            raise MismatchError(
                f"the state is of {name} {state_value}, here it is {value}: steps count in another"
                " order; give the one that the loop began with"
            )


def _are_seeds(seeds: Any) -> bool:
    if not isinstance(seeds, list) or not seeds:
        return False
    return None not in map(whole_number, seeds)


def whole_number(number: Any) -> int | None:
    """Return a whole number, 0 or more, as Python's own; None if it is none."""
    if isinstance(number, bool):
        return None
    try:
        whole = index(number)
    except TypeError:
        return None
    if whole < 0:
        return None
    return whole
