"""Sums of losses: `dist:tau=4+kl:tau=4,weight=0.5`."""

from dataclasses import dataclass

from kdcache.losses.protocol import Loss, Need
from kdcache.shapes import LogitRows, Maps, Scalar, Targets
from kdcache.soft_targets import SoftTargets


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Several losses, with the task loss of the first one."""

    parts: tuple[Loss, ...]

    @property
    def requires(self) -> frozenset[Need]:
        """What one of them must be given."""
        return frozenset().union(*(part.requires for part in self.parts))

    @property
    def batch_tau(self) -> float | None:
        """The temperature of the first one that compares views of a batch."""
        for part in self.parts:
            if part.batch_tau is not None:
                return part.batch_tau
        return None

    @property
    def ce(self) -> float:
        """Weight of the task loss."""
        return self.parts[0].ce

    def require_size(self, rows: int, classes: int) -> None:
        """Check that each can compare so many.

        Raises:
            UsageError: one cannot.
        """
        for part in self.parts:
            part.require_size(rows, classes)

    def terms(
        self, student_logits: LogitRows | Maps, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the terms of all."""
        terms: dict[str, Scalar] = {}
        for part in self.parts:
            terms |= part.terms(student_logits, teacher, targets)
        return terms
