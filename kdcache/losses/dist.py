"""DIST: match the teacher's relations between classes and within a class, not its values.

Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022 (equations
6 to 9).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from kdcache.config.names import choose
from kdcache.deferred import torch
from kdcache.losses.checks import require_activation
from kdcache.losses.options import LossOptions, needs_of
from kdcache.losses.pairs import sigmoid_pair, softened
from kdcache.losses.protocol import Need
from kdcache.shapes import Activation, LogitRows, Scalar, Targets
from kdcache.soft_targets import SoftTargets

Columns = Literal["global", "local"]
"""Whether the intra-class term correlates columns over the rows of all processes, or of this one as
the published code does."""


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
    inter, intra = _weighted_terms(
        student_logits,
        teacher,
        weights=(beta, gamma),
        tau=tau,
        standardize=standardize,
        columns=columns,
        activation=activation,
    )
    return inter + intra


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
    return _weighted_terms(
        student_logits,
        teacher,
        weights=(1.0, 1.0),
        tau=tau,
        standardize=standardize,
        columns=columns,
        activation=activation,
    )


def _weighted_terms(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    weights: tuple[float, float],
    tau: float,
    standardize: bool,
    columns: Columns,
    activation: Activation,
) -> tuple[Scalar, Scalar]:
    """Return the terms of `dist_terms`, each with its weight."""
    # both import torch
    from kdcache.losses.correlation import correlation_losses  # noqa: PLC0415
    from kdcache.runtime.distributed import world_size  # noqa: PLC0415

    choose(columns, get_args(Columns), "columns of dist")
    require_activation(activation, standardize=standardize)
    if activation == "sigmoid":
        logits, target = sigmoid_pair(student_logits, teacher, tau=tau)
        student = torch.sigmoid(logits.detach())
    else:
        logits, target = softened(student_logits, teacher, tau=tau, standardize=standardize)
        student = torch.softmax(logits.detach(), dim=-1)
    is_shared = columns == "global" and world_size() > 1
    if not len(logits) and not is_shared:  # as of views without a proposal
        nothing = logits.sum()
        return nothing, nothing
    inter, intra = correlation_losses(
        logits,
        student,
        target,
        weights=(weights[0] * tau**2, weights[1] * tau**2),
        activation=activation,
        is_shared=is_shared,
    )
    if not len(logits):
        inter = logits.sum()
    return inter, intra


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
        return needs_of(self.standardize, self.ignore_masked, self.positions, self.activation)

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
        inter, intra = _weighted_terms(
            student_logits,
            teacher,
            weights=(self.beta, self.gamma),
            tau=self.tau,
            standardize=self.standardize,
            columns=self.columns,
            activation=self.activation or "softmax",
        )
        return {"inter": inter, "intra": intra}
