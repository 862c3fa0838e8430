"""KL divergence of tempered softmaxes. Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural
Network, 2015."""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.deferred import torch
from kdcache.losses.checks import require_activation
from kdcache.losses.options import LossOptions, needs_of
from kdcache.losses.pairs import mean_of_rows, sigmoid_pair, softened
from kdcache.losses.protocol import Need
from kdcache.runtime.full_precision import without_autocast
from kdcache.shapes import Activation, LogitRows, ProbabilityRows, Scalar, Targets
from kdcache.soft_targets import SoftTargets


def kl_loss(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    tau: float = 4.0,
    standardize: bool = False,
    activation: Activation = "softmax",
) -> Scalar:
    """Return tau^2 KL(teacher || student) at temperature `tau`, the mean over rows, a float32
    scalar.

    Of a sigmoid each class is a distribution of its own, and their divergences are summed.

    Args:
        student_logits: `[rows, classes]`, any dtype; with a teacher's `AnchorTargets` those of
            places with several anchors, whose divergences are summed.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        tau: temperature of both softmaxes.
        standardize: whether each row of both is first divided by its standard deviation (Sun et
            al., CVPR 2024).
        activation: how logits become probabilities.
    """
    require_activation(activation, standardize=standardize)
    if activation == "sigmoid":
        return tau**2 * _sigmoid_kl(*sigmoid_pair(student_logits, teacher, tau=tau))
    student, target = softened(student_logits, teacher, tau=tau, standardize=standardize)
    log_student = torch.log_softmax(student, dim=-1)
    total = torch.nn.functional.kl_div(log_student, target, reduction="sum")
    return tau**2 / max(len(student), 1) * total


def _sigmoid_kl(student: LogitRows, target: ProbabilityRows) -> Scalar:
    """Return the divergences of the classes of a row, summed, the mean over rows."""
    with without_autocast(target.device):
        entropies = torch.nn.functional.binary_cross_entropy(target, target, reduction="none")
    crosses = torch.nn.functional.binary_cross_entropy_with_logits(
        student, target, reduction="none"
    )
    return mean_of_rows((crosses - entropies).flatten(1).sum(1))


@dataclass(frozen=True, kw_only=True)
class Kl(LossOptions):
    """The loss `kl`: ce * CE + weight * KL."""

    name: ClassVar[str] = "kl"
    weights: ClassVar[tuple[str, ...]] = ("ce", "weight")
    tau: float = 4.0
    weight: float = 1.0
    standardize: bool = False
    ignore_masked: bool = False
    activation: Activation | None = None
    """As that of `dist`."""
    positions: float = 1.0
    """As that of `dist`."""
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return needs_of(self.standardize, self.ignore_masked, self.positions, self.activation)

    def terms(
        self, student_logits: LogitRows, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted term `kl`."""
        divergence = kl_loss(
            student_logits,
            teacher,
            tau=self.tau,
            standardize=self.standardize,
            activation=self.activation or "softmax",
        )
        return {"kl": self.weight * divergence}
