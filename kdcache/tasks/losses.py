"""What the tasks share in what they refuse of losses."""

from kdcache.errors import UsageError
from kdcache.losses import Loss


def refuse_positions(loss: Loss, spec: str) -> None:
    """Raise a UsageError if a loss leaves positions out, which is for detection alone."""
    if "positions" in loss.requires:
        raise UsageError(
            f"loss {spec} compares some positions of a detector; leave positions out: this data is"
            " not for detection"
        )
