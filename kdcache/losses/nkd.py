"""NKD: cross-entropy with the teacher's probability of the label, and with its other classes
normalised to sum to 1.

Yang, Zeng, Li, Zhang, Yuan, Li: From Knowledge Distillation to Self-Knowledge Distillation: A
Unified Approach with Normalized Loss and Customized Soft Labels, ICCV 2023.
"""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.deferred import torch
from kdcache.losses.checks import require_tau
from kdcache.losses.label import tempered_pair_with_labels, without_label
from kdcache.losses.options import LossOptions
from kdcache.losses.pairs import mean_of_rows
from kdcache.losses.protocol import Need
from kdcache.shapes import Logits, Scalar, Targets
from kdcache.soft_targets import SoftTargets


def nkd_loss(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    gamma: float = 1.5,
    tau: float = 1.0,
    standardize: bool = False,
) -> Scalar:
    """Return target + gamma * nontarget, a float32 scalar (NKD without its task loss).

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or the rows of a codec that keeps all classes.
        targets: the labels.
        gamma: weight of the classes but the label.
        tau: temperature of these classes, whose term is multiplied by tau^2; the label's is at
            temperature 1 always.
        standardize: whether each row of both is first divided by its standard deviation (Sun et
            al., CVPR 2024).
    """
    target, nontarget = nkd_terms(
        student_logits, teacher, targets, tau=tau, standardize=standardize
    )
    return target + gamma * nontarget


def nkd_terms(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    tau: float,
    standardize: bool = False,
) -> tuple[Scalar, Scalar]:
    """Return (target, nontarget), means over rows: with t and s the softmaxes of teacher and
    student, and y the label, -t_y log s_y, and tau^2 times the cross-entropy of t and s over the
    other classes alone, each normalised there.
    """
    require_tau(tau)
    student, teacher_logits = tempered_pair_with_labels(
        student_logits, teacher, targets, tau=1.0, standardize=standardize
    )
    of_label = torch.softmax(teacher_logits, dim=1).gather(1, targets[:, None])
    log_label = torch.log_softmax(student, dim=1).gather(1, targets[:, None])
    target = -mean_of_rows(of_label * log_label)
    others = torch.softmax(without_label(teacher_logits, targets) / tau, dim=1)
    log_student = torch.log_softmax(without_label(student, targets) / tau, dim=1)
    return target, -(tau**2) * mean_of_rows((others * log_student).sum(1))


@dataclass(frozen=True, kw_only=True)
class Nkd(LossOptions):
    """The loss `nkd`: ce * CE + target + gamma * nontarget."""

    name: ClassVar[str] = "nkd"
    gamma: float = 1.5
    tau: float = 1.0
    standardize: bool = False
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher", "logits", "label"})

    def terms(
        self, student_logits: Logits, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the terms `target` and `nontarget`, the latter weighted."""
        target, nontarget = nkd_terms(
            student_logits, teacher, targets, tau=self.tau, standardize=self.standardize
        )
        return {"target": target, "nontarget": self.gamma * nontarget}
