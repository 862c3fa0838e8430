"""Student and teacher side by side over one temperature, and the mean over their rows."""

import math

from kdcache.deferred import Tensor, torch
from kdcache.losses.checks import (
    as_soft_targets,
    require_rows,
    require_same_shape,
    require_tau,
)
from kdcache.shapes import LogitRows, ProbabilityRows, Scalar
from kdcache.soft_targets import SoftTargets

_STD_EPS = 1e-7  # of the published code


def softened(
    student_logits: LogitRows, teacher: LogitRows | SoftTargets, *, tau: float, standardize: bool
) -> tuple[LogitRows, ProbabilityRows]:
    """Return the student's logits over the temperature, and the teacher's probabilities at that
    temperature, both in float32.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    rows = as_soft_targets(teacher)
    require_rows(student_logits, rows)
    student = _tempered(student_logits, tau=tau, standardize=standardize)
    # the softmax forgets the row's mean
    temperature: float | Tensor = tau
    if standardize:
        temperature = tau * (rows.std() + _STD_EPS)
    target = rows.probs(temperature, tempered_student=student.detach())
    require_same_shape(student, target)
    return student, target


def sigmoid_pair(
    student_logits: LogitRows, teacher: LogitRows | SoftTargets, *, tau: float
) -> tuple[LogitRows, ProbabilityRows]:
    """Return the student's logits over the temperature, and of the teacher's the sigmoid, both in
    float32.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    student, teacher_logits = tempered_pair(student_logits, teacher, tau=tau, standardize=False)
    return student, torch.sigmoid(teacher_logits)


def tempered_pair(
    student_logits: LogitRows, teacher: LogitRows | SoftTargets, *, tau: float, standardize: bool
) -> tuple[LogitRows, LogitRows]:
    """Return the logits of student and teacher over the temperature, in float32.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    rows = as_soft_targets(teacher)
    require_rows(student_logits, rows)
    student = _tempered(student_logits, tau=tau, standardize=standardize)
    target = _tempered(rows.logits(), tau=tau, standardize=standardize)
    require_same_shape(student, target)
    return student, target


def _tempered(logits: LogitRows, *, tau: float, standardize: bool) -> LogitRows:
    """Return the logits over the temperature, in float32.

    With `standardize` each row is first brought to mean 0 and standard deviation 1: Sun, Ren, Li,
    Wang, Cao, Logit Standardization in Knowledge Distillation, CVPR 2024. As there, the gradient
    goes through mean and deviation.
    """
    require_tau(tau)
    logits = logits.float()
    if standardize:
        centred = logits - logits.mean(-1, keepdim=True)
        # torch.std gives the same and takes far longer on a CPU
        norms = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
        std = norms / math.sqrt(logits.shape[-1] - 1)
        logits = centred / (std + _STD_EPS)
    if tau == 1:
        return logits
    return logits / tau


def mean_of_rows(values: Tensor) -> Scalar:
    """Return the mean over rows; 0 where there are none, as of views without a proposal."""
    if not len(values):
        return values.sum()
    return values.mean()
