"""What a detector gives of a batch of views, before boxes are chosen: one class a family."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Layout
from kdcache.shapes import Detections, Labels, Logits, Scalar, ViewLogits
from kdcache.soft_targets import SoftTargets


class DetectorOutput(ABC):
    """What a detector gives of a batch of views, before boxes are chosen."""

    layout: Layout
    """Where the positions of its class logits are."""

    logits: ViewLogits
    """Class logits, `[views, positions, row width]`."""

    def exact_layout(self) -> Layout:
        """Return the layout with all that tells one from another, which may wait for the device."""
        return self.layout

    @abstractmethod
    def teacher_logits(self, labels: Labels) -> TeacherLogits:
        """Return what a cache holds of it.

        Args:
            labels: of the views.
        """

    @abstractmethod
    def beside(self, teacher: SoftTargets) -> Iterator[tuple[Logits | Tensor, SoftTargets]]:
        """Yield, for each set of positions that a loss compares together, the student's rows and
        the teacher's at the same places.

        Args:
            teacher: the soft targets of the views.
        """

    @abstractmethod
    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return the detector's own losses, by torchvision's names.

        Boxes of crowds are left out. They are computed in float32, whatever the detector ran in.
        """

    @abstractmethod
    def detections(self) -> list[Detections]:
        """Return the boxes that the detector finds in each view, after its own suppression."""


def as_detections(tables: list[dict[str, Any]], *, has_background: bool) -> list[Detections]:
    """Return the boxes of torchvision's tables, with classes as the data counts them.

    Args:
        tables: `boxes`, `scores` and `labels` of each view.
        has_background: whether label 0 is the background.
    """
    detections = []
    for table in tables:
        classes = table["labels"] - int(has_background)
        detections.append(Detections(table["boxes"], table["scores"], classes))
    return detections
