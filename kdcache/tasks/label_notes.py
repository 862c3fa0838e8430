"""What both tasks say of labels that cannot be meant."""

import math
from collections.abc import Sequence

import numpy as np

from kdcache.shapes import Rows

_EXPECTED = 20
"""As often a class must be expected, if all come equally often, before that it never comes is
told."""
_CERTAINTY = 6
"""Powers of ten by which it must be unlikely that all labels are equal, if all classes come equally
often."""
_MOST_NAMED = 5


def is_one_class_only(num_labels: int, num_classes: int) -> bool:
    """Return whether so many labels of so many classes cannot all be equal by chance."""
    return num_classes > 1 and (num_labels - 1) * math.log10(num_classes) >= _CERTAINTY


def missing_classes(
    counts: Rows, num_views: int, what: str, names: Sequence[str] | None
) -> list[str]:
    """Return the note about classes that never occur, though so many views were looked at that
    chance is excluded.

    Args:
        counts: in how many views each class occurs.
        num_views: that were looked at.
        what: their labels are called.
        names: of the classes.
    """
    missing = np.flatnonzero(counts == 0)
    if not len(missing) or num_views < _EXPECTED * len(counts):
        return []
    listed = [class_text(int(index), names) for index in missing[:_MOST_NAMED]]
    if len(missing) > _MOST_NAMED:
        listed.append(f"{len(missing) - _MOST_NAMED} others")
    never = "class {} never occurs" if len(missing) == 1 else "classes {} never occur"
    absent = never.format(", ".join(listed))
    return [f"{absent} in the {num_views} {what} looked at; are there {len(counts)} classes?"]


def class_text(index: int, names: Sequence[str] | None) -> str:
    """Return a class for messages, with its name where there is one."""
    return f"{index} ({names[index]})" if names is not None and index < len(names) else str(index)
