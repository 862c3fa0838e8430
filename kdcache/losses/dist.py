"""DIST: match the teacher's relations between classes and within a class, not its values.

Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022 (equations 6 to 9).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.codecs import TeacherRows
from kdcache.losses.protocol import check_options, softened
from kdcache.shapes import Logits, Scalar, Targets

_EPS = 1e-8  # of the published code; below it a column that hardly varies is silently off


def dist_loss(
    student_logits: Logits,
    teacher: Logits | TeacherRows,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    tau: float = 1.0,
    standardize: bool = False,
) -> Scalar:
    """Return beta * inter + gamma * intra, a float32 scalar (equation 10 without its task loss).

    Args:
        student_logits: `[rows, classes]`; maps are flattened to rows. Any dtype; the loss is computed in float32.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        beta: weight of the inter-class term.
        gamma: weight of the intra-class term.
        tau: temperature of both softmaxes; both terms are multiplied by tau^2.
        standardize: whether each row of both is first divided by its standard deviation (Sun et al., CVPR 2024).
    """
    inter, intra = dist_terms(student_logits, teacher, tau=tau, standardize=standardize)
    return beta * inter + gamma * intra


def dist_terms(
    student_logits: Logits, teacher: Logits | TeacherRows, *, tau: float, standardize: bool = False
) -> tuple[Scalar, Scalar]:
    """Return (inter, intra): tau^2 times one minus the mean Pearson correlation of rows, and of columns over the batch."""
    logits, target = softened(student_logits, teacher, tau=tau, standardize=standardize)
    student = torch.softmax(logits, dim=-1)
    inter = tau**2 * (1 - pearson(student, target, dim=1).mean())
    intra = tau**2 * (1 - pearson(student, target, dim=0).mean())
    return inter, intra


def pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Return Pearson's correlation of `a` and `b` along `dim`; 0, with zero gradient, where one of them is constant."""
    a = a - a.mean(dim, keepdim=True)
    b = b - b.mean(dim, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    correlation: Tensor = (a * b).sum(dim) / (norms + _EPS)
    return correlation


@dataclass(frozen=True, kw_only=True)
class Dist:
    """The loss `dist`: ce * CE + beta * inter + gamma * intra."""

    needs_teacher: ClassVar[bool] = True
    needs_all: ClassVar[bool] = False
    tau: float = 1.0
    beta: float = 2.0
    gamma: float = 2.0
    standardize: bool = False
    ce: float = 1.0

    def __post_init__(self) -> None:
        check_options(self)

    def terms(self, student_logits: Logits, teacher: TeacherRows, targets: Targets) -> dict[str, Scalar]:
        """Return the weighted terms `inter` and `intra`."""
        inter, intra = dist_terms(student_logits, teacher, tau=self.tau, standardize=self.standardize)
        return {"inter": self.beta * inter, "intra": self.gamma * intra}
