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
    if num_classes <= 1:
        return False
    powers_of_ten = (num_labels - 1) * math.log10(num_classes)
    return powers_of_ten >= _CERTAINTY


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
    texts = [class_text(int(index), names) for index in missing[:_MOST_NAMED]]
    if len(missing) > _MOST_NAMED:
        texts.append(f"{len(missing) - _MOST_NAMED} others")
    listing = ", ".join(texts)
    if len(missing) == 1:
        fact = f"class {listing} never occurs"
    else:
        fact = f"classes {listing} never occur"
    return [f"{fact} in the {num_views} {what} looked at; are there {len(counts)} classes?"]


def class_text(index: int, names: Sequence[str] | None) -> str:
    """Return a class for messages, with its name where there is one."""
    if names is None or index >= len(names):
        return str(index)
    return f"{index} ({names[index]})"
