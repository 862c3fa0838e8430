"""MSE: match the teacher's logits, value by value.

Kim, Oh, Kim, Cho, Yun: Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in
Knowledge Distillation, IJCAI 2021.
"""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.losses.options import LossOptions
from kdcache.losses.pairs import mean_of_rows, tempered_pair
from kdcache.losses.protocol import Need
from kdcache.shapes import LogitRows, Scalar, Targets
from kdcache.soft_targets import SoftTargets


def mse_loss(student_logits: LogitRows, teacher: LogitRows | SoftTargets) -> Scalar:
    """Return the mean over rows and classes of (student - teacher)^2, a float32 scalar.

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or a codec's decoded rows.
    """
    student, target = tempered_pair(student_logits, teacher, tau=1.0, standardize=False)
    return mean_of_rows((student - target).square().flatten(1).mean(1))


@dataclass(frozen=True, kw_only=True)
class Mse(LossOptions):
    """The loss `mse`: ce * CE + weight * MSE."""

    name: ClassVar[str] = "mse"
    weights: ClassVar[tuple[str, ...]] = ("ce", "weight")
    weight: float = 1.0
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher", "logits"})

    def terms(
        self, student_logits: LogitRows, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted term `mse`."""
        return {"mse": self.weight * mse_loss(student_logits, teacher)}
