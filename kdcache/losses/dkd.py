"""DKD: the KL divergence taken apart, so that what a sure teacher says of the other classes keeps
its weight.

Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022 (equations 5 to 7). With p
the teacher's probability of the label, KL = TCKD + (1 - p) NCKD; DKD gives the two terms weights of
their own, which do not depend on p.
"""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.deferred import Tensor, torch
from kdcache.losses.label import tempered_pair_with_labels, without_label
from kdcache.losses.options import LossOptions
from kdcache.losses.pairs import mean_of_rows
from kdcache.losses.protocol import Need
from kdcache.shapes import Logits, Scalar, Targets
from kdcache.soft_targets import SoftTargets


def dkd_loss(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    tau: float = 4.0,
    standardize: bool = False,
) -> Scalar:
    """Return alpha * TCKD + beta * NCKD, a float32 scalar.

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or the rows of a codec that keeps all classes.
        targets: the labels.
        alpha: weight of the label against all other classes.
        beta: weight of the other classes among themselves.
        tau: temperature of all softmaxes; both terms are multiplied by tau^2.
        standardize: whether each row of both is first divided by its standard deviation (Sun et
            al., CVPR 2024).
    """
    tckd, nckd = dkd_terms(student_logits, teacher, targets, tau=tau, standardize=standardize)
    return alpha * tckd + beta * nckd


def dkd_terms(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    tau: float,
    standardize: bool = False,
) -> tuple[Scalar, Scalar]:
    """Return (TCKD, NCKD): tau^2 times the KL of (label, not the label), and of the classes but the
    label; means over rows."""
    student, target = tempered_pair_with_labels(
        student_logits, teacher, targets, tau=tau, standardize=standardize
    )
    student_pairs, student_others = _decoupled(student, targets)
    target_pairs, target_others = _decoupled(target, targets)
    tckd = tau**2 * _kl(student_pairs, target_pairs)
    nckd = tau**2 * _kl(student_others, target_others)
    return tckd, nckd


def _decoupled(logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return logits of (label, not the label), `[rows, 2]`, and of the other classes; no 1 - p is
    ever taken."""
    others = without_label(logits, targets)
    of_label = logits.gather(1, targets[:, None])
    pairs = torch.cat([of_label, others.logsumexp(1, keepdim=True)], dim=1)
    return pairs, others


def _kl(student: Tensor, target: Tensor) -> Tensor:
    log_student = torch.log_softmax(student, dim=1)
    log_target = torch.log_softmax(target, dim=1)
    return mean_of_rows((log_target.exp() * (log_target - log_student)).sum(1))


@dataclass(frozen=True, kw_only=True)
class Dkd(LossOptions):
    """The loss `dkd`: ce * CE + alpha * TCKD + beta * NCKD."""

    name: ClassVar[str] = "dkd"
    weights: ClassVar[tuple[str, ...]] = ("ce", "alpha", "beta")
    alpha: float = 1.0
    beta: float = 8.0
    tau: float = 4.0
    standardize: bool = False
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher", "logits", "label"})

    def terms(
        self, student_logits: Logits, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted terms `tckd` and `nckd`."""
        tckd, nckd = dkd_terms(
            student_logits, teacher, targets, tau=self.tau, standardize=self.standardize
        )
        return {"tckd": self.alpha * tckd, "nckd": self.beta * nckd}
