"""Cross-entropy with the labels alone."""

from dataclasses import dataclass

from kdcache.codecs import TeacherRows
from kdcache.losses.protocol import LossOptions, Need
from kdcache.shapes import Logits, Scalar, Targets


@dataclass(frozen=True, kw_only=True)
class Ce(LossOptions):
    """The loss `ce`: cross-entropy on the labels, no teacher."""

    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset()

    def terms(self, student_logits: Logits, teacher: TeacherRows, targets: Targets) -> dict[str, Scalar]:
        """Return nothing: the task loss is all there is."""
        return {}
