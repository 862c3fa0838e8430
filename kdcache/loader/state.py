"""What a loader's state must hold, of whichever loader it is."""

from operator import index
from typing import Any

from torch import Tensor

from kdcache.errors import UsageError, quoted

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
