"""What a format of somebody else's gives of a sample: crops, and what a teacher said of each."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdcache.errors import quoted
from kdcache.views.stored_views import Boxes, Flips, are_boxes

Classes = np.ndarray[Any, np.dtype[np.int32]]
Probabilities = np.ndarray[Any, np.dtype[np.float32]]
_MOST_SUM = 1.01
"""Of the probabilities of a crop: some are stored in float16."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CropLabels:
    """The crops of a sample, and the most likely classes of each."""

    boxes: Boxes
    """`[crops, 4]`."""
    flips: Flips
    """`[crops]`."""
    classes: Classes
    """`[crops, k]`, in any order."""
    probabilities: Probabilities
    """Of these classes, `[crops, k]`."""

    def check(self, num_classes: int) -> None:
        """Check that crops lie in their image, and labels are of the data's classes.

        Raises:
            ValueError: they are not.
        """
        if not are_boxes(self.boxes).all():
            raise ValueError("a box that does not lie in its image")
        low = self.classes.min(initial=0)
        high = self.classes.max(initial=0)
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels of classes {low} to {high}, and the data has classes 0 to"
                f" {num_classes - 1}"
            )
        ordered = np.sort(self.classes, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class twice among the labels of a crop")
        sums = self.probabilities.sum(1)
        is_share = (self.probabilities >= 0).all() and (sums <= _MOST_SUM).all()
        if not is_share:  # nor is NaN
            raise ValueError(
                f"labels that are no probabilities, {quoted(self.probabilities[0].tolist())}"
            )


@runtime_checkable
class Origin(Protocol):
    """A folder of somebody else's labels."""

    def file(self, index: int) -> str:
        """Return how messages name the file of a sample."""

    def labels(self, index: int) -> CropLabels:
        """Return the labels of a sample, checked.

        Raises:
            FileNotFoundError: there are none of it.
            CacheError: a file that cannot be read.
        """
