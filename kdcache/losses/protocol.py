"""What a loss is, and what it may require."""

from typing import Literal, Protocol, runtime_checkable

from kdcache.shapes import LogitRows, Maps, Scalar, Targets
from kdcache.soft_targets import SoftTargets

Need = Literal["teacher", "logits", "label", "maps", "masks", "positions"]
"""What a loss may require: soft targets of a `teacher`; its raw `logits`, not only probabilities;
its logit of the one `label` of each row, whatever its rank; whole `maps`, whose pixels are compared
with each other; `masks`, so that pixels without a class are left out; several `positions` a view,
of which some are left out."""


@runtime_checkable
class Loss(Protocol):
    """What a student is trained on: `ce` times the task's cross-entropy, plus the terms against the
    teacher."""

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""

    @property
    def batch_tau(self) -> float | None:
        """The temperature at which it compares views of a batch with each other; None if it does
        not."""

    @property
    def ce(self) -> float:
        """Weight of the task loss."""

    @property
    def parts(self) -> "tuple[Loss, ...]":
        """The losses that it is the sum of: itself, of one."""

    def require_size(self, rows: int, classes: int) -> None:
        """Check that logits of so many rows, of all processes, and classes can be compared.

        Raises:
            UsageError: there are too many.
        """

    def terms(
        self, student_logits: LogitRows | Maps, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted float32 terms that are added to the task loss, by name."""
