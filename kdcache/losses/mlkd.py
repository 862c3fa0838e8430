"""MLKD: match the teacher's views, the relations between the views of a batch, and those between
classes, each at several temperatures.

Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR 2023. Weights of the terms are those of the
authors' code, which also leaves out views and classes of which the teacher is unsure, in the half
of its views that are augmented little.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError, quoted
from kdcache.losses.checks import as_soft_targets, require_rows
from kdcache.losses.kl import kl_loss
from kdcache.losses.options import LossOptions, needs_of
from kdcache.losses.pairs import softened
from kdcache.losses.protocol import Need
from kdcache.runtime.full_precision import without_autocast
from kdcache.shapes import LogitRows, Scalar, Targets
from kdcache.soft_targets import SoftTargets

TAUS = (2.0, 3.0, 4.0, 5.0, 6.0)
_MOST = 2**14
"""Rows, or classes, that are compared each with each: a gigabyte of float32."""


def mlkd_loss(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    taus: tuple[float, ...] = TAUS,
    standardize: bool = False,
) -> Scalar:
    """Return the sum of the three terms of `mlkd_terms`, a float32 scalar.

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        taus: temperatures, whose losses are summed.
        standardize: whether each row of both is first divided by its standard deviation (Sun et
            al., CVPR 2024).
    """
    instances, batch, categories = mlkd_terms(
        student_logits, teacher, taus=taus, standardize=standardize
    )
    return instances + batch + categories


def mlkd_terms(
    student_logits: LogitRows,
    teacher: LogitRows | SoftTargets,
    *,
    taus: tuple[float, ...],
    standardize: bool = False,
    with_batch: bool = True,
    with_categories: bool = True,
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (instances, batch, categories), each summed over temperatures.

    With P and Q the softmaxes of teacher and student, `[rows, classes]`: tau^2 KL(P, Q), the mean
    over rows; the squares of P P' - Q Q', summed, over the number of rows; those of P' P - Q' Q,
    summed, over the number of classes. Rows are those of all processes, as in `dist_terms`.

    Args:
        student_logits: `[rows, classes]`, any dtype.
        teacher: raw logits of the same shape, or a codec's decoded rows.
        taus: temperatures.
        standardize: see `mlkd_loss`.
        with_batch: whether rows are compared with each other; if not, the term is 0.
        with_categories: whether classes are; if not, the term is 0.

    Raises:
        UsageError: no temperature, or more rows or classes than can be compared each with each.
    """
    _require_some(taus)
    require_rows(student_logits, as_soft_targets(teacher))
    nothing = student_logits.float().sum() * 0
    instances = nothing
    batch = nothing
    categories = nothing
    counts = None
    if with_batch or with_categories:
        counts = _row_counts(student_logits)
    for tau in taus:
        instances = instances + kl_loss(student_logits, teacher, tau=tau, standardize=standardize)
        if counts is None:
            continue
        student, target = softened(student_logits, teacher, tau=tau, standardize=standardize)
        student = _of_all(torch.softmax(student, dim=-1), counts)
        target = _of_all(target, counts)
        if with_batch and len(student):
            batch = batch + _distance(student, target, "rows", "batch_weight")
        if with_categories:
            categories = categories + _distance(student.T, target.T, "classes", "category_weight")
    return instances, batch, categories


def _require_some(taus: tuple[float, ...]) -> None:
    """Raise a UsageError if there is no temperature, or one that is in no list."""
    if not isinstance(taus, Iterable):
        raise UsageError(f"loss mlkd: taus is {quoted(taus)}; it must be a list of temperatures")
    if not len(taus):
        raise UsageError("loss mlkd: taus is empty; give temperatures, as taus=[2,3,4,5,6]")


def _row_counts(logits: LogitRows) -> list[int]:
    """Return how many rows each process has; of several the device is waited for, once a loss."""
    from kdcache.runtime.distributed import all_counts  # noqa: PLC0415  # which imports torch

    return all_counts(len(logits), logits.device)


def _of_all(probabilities: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the probabilities of the rows of all processes, which have so many."""
    from kdcache.runtime.distributed import all_rows  # noqa: PLC0415  # which imports torch

    return all_rows(probabilities.flatten(1), counts)


def _require_few(number: int, what: str, option: str) -> None:
    """Raise a UsageError if there are more than can be compared each with each."""
    if number > _MOST:
        raise UsageError(
            f"mlkd compares each of {number:,} {what} with each, at most {_MOST:,}; set {option}=0"
        )


def _distance(student: Tensor, target: Tensor, what: str, option: str) -> Scalar:
    """Return how much the products of rows with each other differ: squares, summed, over the number
    of rows."""
    _require_few(len(student), what, option)
    with without_autocast(student.device):
        differences = student @ student.T - target @ target.T
    return differences.square().sum() / len(student)


@dataclass(frozen=True, kw_only=True)
class Mlkd(LossOptions):
    """The loss `mlkd`: ce * CE + instance_weight * instances + batch_weight * batch +
    category_weight * categories."""

    name: ClassVar[str] = "mlkd"
    weights: ClassVar[tuple[str, ...]] = (
        "ce",
        "instance_weight",
        "batch_weight",
        "category_weight",
    )
    taus: tuple[float, ...] = TAUS
    instance_weight: float = 1.0
    batch_weight: float = 1.0
    category_weight: float = 1.0
    standardize: bool = False
    ce: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_some(self.taus)

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return needs_of(self.standardize)

    @property
    def batch_tau(self) -> float | None:
        """The temperature in the middle, unless each row is looked at alone."""
        if self.batch_weight > 0 or self.category_weight > 0:
            return median(self.taus)
        return None

    def require_size(self, rows: int, classes: int) -> None:
        """Check that all can be compared each with each, as far as they are.

        Raises:
            UsageError: there are too many.
        """
        if self.batch_weight > 0:
            _require_few(rows, "rows", "batch_weight")
        if self.category_weight > 0:
            _require_few(classes, "classes", "category_weight")

    def terms(
        self, student_logits: LogitRows, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted terms `instances`, `batch` and `categories`, those with a weight."""
        instances, batch, categories = mlkd_terms(
            student_logits,
            teacher,
            taus=self.taus,
            standardize=self.standardize,
            with_batch=self.batch_weight > 0,
            with_categories=self.category_weight > 0,
        )
        terms = {}
        if self.instance_weight > 0:
            terms["instances"] = self.instance_weight * instances
        if self.batch_weight > 0:
            terms["batch"] = self.batch_weight * batch
        if self.category_weight > 0:
            terms["categories"] = self.category_weight * categories
        return terms
