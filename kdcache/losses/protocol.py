"""What a loss is, and how raw logits pass for a teacher's rows."""

import dataclasses
import math
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from kdcache.codecs import DenseRows, TeacherRows
from kdcache.errors import UsageError
from kdcache.shapes import Logits, Scalar


@runtime_checkable
class Loss(Protocol):
    """What a student is trained on: `ce` times the task's cross-entropy, plus the terms against the teacher."""

    needs_teacher: ClassVar[bool]

    @property
    def ce(self) -> float:
        """Weight of the task loss."""

    def terms(self, student_logits: Logits, teacher: TeacherRows) -> dict[str, Scalar]:
        """Return the weighted float32 terms that are added to the task loss, by name."""


def as_rows(teacher: Logits | TeacherRows) -> TeacherRows:
    """Return raw logits as rows, rows as they are."""
    return DenseRows(teacher) if isinstance(teacher, Tensor) else teacher


def check_options(loss: Any) -> None:
    """Raise a UsageError if a weight of a loss is negative, its temperature not above 0, or either not finite."""
    for name, value in dataclasses.asdict(loss).items():
        if not math.isfinite(value) or value < 0 or (name == "tau" and value == 0):
            bound = "above 0" if name == "tau" else "0 or more"
            raise UsageError(f"loss {type(loss).__name__.lower()}: {name}={value} must be {bound}")
