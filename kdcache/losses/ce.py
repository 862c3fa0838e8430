"""Cross-entropy with the labels alone."""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.losses.options import LossOptions
from kdcache.losses.protocol import Need
from kdcache.shapes import Logits, Scalar, Targets
from kdcache.soft_targets import SoftTargets


@dataclass(frozen=True, kw_only=True)
class Ce(LossOptions):
    """The loss `ce`: cross-entropy on the labels, no teacher."""

    name: ClassVar[str] = "ce"
    weights: ClassVar[tuple[str, ...]] = ("ce",)
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset()

    def terms(
        self, student_logits: Logits, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return nothing: the task loss is all there is."""
        return {}
