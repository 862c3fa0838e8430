"""What a loss is, and how raw logits pass for a teacher's rows."""

from typing import ClassVar, Protocol, runtime_checkable

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


def check_positive(loss: object, *names: str) -> None:
    """Raise a UsageError if an option of a loss that must be above 0 is not."""
    for name in names:
        if not getattr(loss, name) > 0:
            raise UsageError(f"loss {type(loss).__name__.lower()}: {name}={getattr(loss, name)} must be above 0")
