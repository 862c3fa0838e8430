"""DIST: match the teacher's relations between classes and within a class, not its values.

Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022 (equations
6 to 9).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from kdcache.config.spec import choose
from kdcache.losses.protocol import (
    LossOptions,
    Need,
    needs_of,
    require_activation,
    sigmoid_pair,
    softened,
)
from kdcache.runtime.distributed import all_sum, world_size
from kdcache.shapes import Activation, LogitRows, Scalar, Targets
from kdcache.soft_targets import SoftTargets

Columns = Literal["global", "local"]
"""Whether the intra-class term correlates columns over the rows of all processes, or of this one as
the published code does."""

_EPS = 1e-8  # of the published code; below it a column that hardly varies is silently off


def dist_loss(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    tau: float = 1.0,
    standardize: bool = False,
    columns: Columns = "global",
    activation: Activation = "softmax",
) -> Scalar:
    """Return beta * inter + gamma * intra, a float32 scalar (equation 10 without its task loss).

    Args:
        student_logits: `[rows, classes]`; maps are flattened to rows. Any dtype; the loss is
            computed in float32. With a teacher's `AnchorTargets` those of places with several
            anchors, `[places, anchors, row width]`.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        beta: weight of the inter-class term.
        gamma: weight of the intra-class term.
        tau: temperature of both softmaxes; both terms are multiplied by tau^2.
        standardize: whether each row of both is first divided by its standard deviation (Sun et
            al., CVPR 2024).
        columns: over which rows the intra-class term correlates, see `dist_terms`.
        activation: how logits become probabilities; `sigmoid` for heads whose classes do not
            exclude each other, as those of most one-stage detectors.
    """
    inter, intra = dist_terms(
        student_logits,
        teacher,
        tau=tau,
        standardize=standardize,
        columns=columns,
        activation=activation,
    )
    return beta * inter + gamma * intra


def dist_terms(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    tau: float,
    standardize: bool = False,
    columns: Columns = "global",
    activation: Activation = "softmax",
) -> tuple[Scalar, Scalar]:
    """Return (inter, intra): tau^2 times one minus the mean Pearson correlation of rows, and of
    columns over the batch.

    Where torch.distributed joins several processes and `columns` is `global`, the batch is that of
    all of them: every process must make the call, and gets the same intra. Its gradient is such
    that the mean over processes, as DistributedDataParallel takes it, is that of one process with
    the whole batch. That holds for parts of unequal size too, also if each process weighs its whole
    loss by its share of the rows times the number of processes, which the mean of inter then needs.
    """
    choose(columns, get_args(Columns), "columns of dist")
    require_activation(activation, standardize=standardize)
    if activation == "sigmoid":
        logits, target = sigmoid_pair(student_logits, teacher, tau=tau)
        student = torch.sigmoid(logits)
    else:
        logits, target = softened(student_logits, teacher, tau=tau, standardize=standardize)
        student = torch.softmax(logits, dim=-1)
    student = student.flatten(1)
    target = target.flatten(1)
    is_shared = columns == "global" and world_size() > 1
    if len(student):
        inter = tau**2 * (1 - pearson(student, target, dim=1).mean())
    else:  # as of views without a proposal
        inter = student.sum()
        if not is_shared:
            return inter, inter
    if is_shared:
        correlations = shared_pearson(student, target)
    else:
        correlations = pearson(student, target, dim=0)
    intra = tau**2 * (1 - correlations.mean())
    return inter, intra


def pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Return Pearson's correlation of `a` and `b` along `dim`; 0 where one of them is constant."""
    a = a - a.mean(dim, keepdim=True)
    b = b - b.mean(dim, keepdim=True)
    norms_a = torch.linalg.vector_norm(a, dim=dim)
    norms_b = torch.linalg.vector_norm(b, dim=dim)
    correlation: Tensor = (a * b).sum(dim) / (norms_a * norms_b + _EPS)
    return correlation


def shared_pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of the columns of `a` and `b`, `[rows, classes]`, over the rows
    of all processes.

    What travels is not the rows but five sums a class: two to centre by, and then, for accuracy,
    three of centred values.
    """
    with torch.no_grad():  # centred columns sum to 0, so no gradient goes through their means
        num_rows = a.new_full((1,), len(a))
        sums = all_sum(torch.cat([a.sum(0), b.sum(0), num_rows]))
        means = sums[:-1] / sums[-1]
        mean_a, mean_b = means.chunk(2)
    a = a - mean_a
    b = b - mean_b
    products = (a * b).sum(0)
    squares_a = (a * a).sum(0)
    squares_b = (b * b).sum(0)
    products, squares_a, squares_b = all_sum(torch.stack([products, squares_a, squares_b]))
    correlation: Tensor = products / (_root(squares_a) * _root(squares_b) + _EPS)
    return correlation


def _root(squares: Tensor) -> Tensor:
    """Return roots that have a gradient at 0 too, of the smallest float, which is nothing beside
    _EPS."""
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


@dataclass(frozen=True, kw_only=True)
class Dist(LossOptions):
    """The loss `dist`: ce * CE + beta * inter + gamma * intra."""

    name: ClassVar[str] = "dist"
    weights: ClassVar[tuple[str, ...]] = ("ce", "beta", "gamma")
    tau: float = 1.0
    beta: float = 2.0
    gamma: float = 2.0
    standardize: bool = False
    columns: Columns = "global"
    ignore_masked: bool = False
    activation: Activation | None = None
    """How logits become probabilities; by default as the model's head is trained: by a sigmoid for
    detection, by a softmax else."""
    positions: float = 1.0
    """Share of a level's places, or of the proposals, that are compared in detection: those at
    which the teacher is surest that there is an object. At 1, all, `dist` is the published loss;
    below it is another."""
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return needs_of(self.standardize, self.ignore_masked, self.positions)

    @property
    def batch_tau(self) -> float | None:
        """The temperature of `intra`, unless that is left out."""
        if self.gamma > 0:
            return self.tau
        return None

    def terms(
        self, student_logits: LogitRows, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted terms `inter` and `intra`."""
        inter, intra = dist_terms(
            student_logits,
            teacher,
            tau=self.tau,
            standardize=self.standardize,
            columns=self.columns,
            activation=self.activation or "softmax",
        )
        return {"inter": self.beta * inter, "intra": self.gamma * intra}
