"""What a loss is given, checked before it is compared."""

import math
from typing import get_args

from kdcache.config.names import choose
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError, quoted
from kdcache.shapes import Activation, LogitRows
from kdcache.soft_targets import AnchorTargets, DenseTargets, SoftTargets, require_one_segment


def require_tau(tau: float) -> None:
    """Raise a UsageError if a temperature is not above 0, or not finite."""
    if not hasattr(tau, "__float__"):
        raise UsageError(f"tau is {quoted(tau)}; it must be a number above 0")
    if not 0 < tau < math.inf:
        raise UsageError(f"tau is {tau}; it must be above 0, and finite")


def require_activation(activation: str, *, standardize: bool) -> None:
    """Raise a UsageError if probabilities of a row cannot be made so."""
    choose(activation, get_args(Activation), "activation")
    if activation == "sigmoid" and standardize:
        raise UsageError(
            "standardize is for a softmax, which forgets a row's mean; leave it out with"
            " activation=sigmoid"
        )


def as_soft_targets(teacher: LogitRows | SoftTargets) -> SoftTargets:
    """Return raw logits as rows, rows as they are.

    Raises:
        UsageError: they are neither.
    """
    if torch.is_tensor(teacher):
        return DenseTargets(teacher)
    if not hasattr(teacher, "probs"):
        raise UsageError(
            f"the teacher's side is of type {type(teacher).__name__}; give the soft targets of a"
            " batch, batch.teacher, or a tensor of logits"
        )
    return teacher


def require_logits(logits: Tensor) -> None:
    """Raise a UsageError if a student's logits are no tensor of floats, as where a model gives more
    than these, or where student and teacher are swapped."""
    if not torch.is_tensor(logits):
        raise UsageError(
            f"the student's logits are of type {type(logits).__name__}; give a tensor of them"
            " first, and then the teacher's side"
        )
    if not logits.is_floating_point():
        raise UsageError(f"the student's logits are {logits.dtype}; give them as floats")


def require_rows(logits: Tensor, teacher: SoftTargets) -> None:
    """Raise a UsageError if a student's logits are no rows of classes: those of maps and of several
    positions a view have more axes, and would be compared along the wrong ones."""
    require_logits(logits)
    require_one_segment(teacher)
    num_axes = 2
    if isinstance(teacher, AnchorTargets):
        num_axes = 3
    if logits.ndim != num_axes:
        raise UsageError(
            f"the student's logits are of shape {tuple(logits.shape)}; give rows,"
            " [rows, classes], with a row for each position of a view"
        )


def require_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise a UsageError if one side has other rows or classes: torch would repeat a single one."""
    if student.shape != teacher.shape:
        raise UsageError(
            f"the student's logits are of shape {tuple(student.shape)}, the teacher's of"
            f" {tuple(teacher.shape)}; both must be of the same rows and classes"
        )
