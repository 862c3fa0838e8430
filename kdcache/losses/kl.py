"""KL divergence of tempered softmaxes. Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from kdcache.codecs import TeacherRows
from kdcache.losses.protocol import as_rows, check_options
from kdcache.shapes import Logits, Scalar


def kl_loss(student_logits: Logits, teacher: Logits | TeacherRows, *, tau: float = 4.0) -> Scalar:
    """Return tau^2 KL(teacher || student) at temperature `tau`, the mean over rows, a float32 scalar.

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        tau: temperature of both softmaxes.
    """
    log_student = torch.log_softmax(student_logits.float() / tau, dim=-1)
    target = as_rows(teacher).probs(tau)
    loss: Scalar = tau**2 * (torch.special.xlogy(target, target) - target * log_student).sum(1).mean()
    return loss


@dataclass(frozen=True, kw_only=True)
class Kl:
    """The loss `kl`: ce * CE + weight * KL."""

    needs_teacher: ClassVar[bool] = True
    tau: float = 4.0
    weight: float = 1.0
    ce: float = 1.0

    def __post_init__(self) -> None:
        check_options(self)

    def terms(self, student_logits: Logits, teacher: TeacherRows) -> dict[str, Scalar]:
        """Return the weighted term `kl`."""
        return {"kl": self.weight * kl_loss(student_logits, teacher, tau=self.tau)}
