"""What a loss is, and what the losses share: raw logits as a teacher's rows, and both sides over
one temperature."""

import dataclasses
import math
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from kdcache.config.names import choose
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError, quoted
from kdcache.shapes import (
    Activation,
    LogitRows,
    Logits,
    Maps,
    ProbabilityRows,
    Scalar,
    Targets,
)
from kdcache.soft_targets import (
    AnchorTargets,
    DenseTargets,
    SoftTargets,
    keeps_all,
    require_one_segment,
)

_STD_EPS = 1e-7  # of the published code


Need = Literal["teacher", "logits", "label", "maps", "masks", "positions"]
"""What a loss may require: soft targets of a `teacher`; its raw `logits`, not only probabilities;
its logit of the one `label` of each row, whatever its rank; whole `maps`, whose pixels are compared
with each other; `masks`, so that pixels without a class are left out; several `positions` a view,
of which some are left out."""


@runtime_checkable
class Loss(Protocol):
    """What a student is trained on: `ce` times the task's cross-entropy, plus the terms against the
    teacher."""

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""

    @property
    def batch_tau(self) -> float | None:
        """The temperature at which it compares views of a batch with each other; None if it does
        not."""

    @property
    def ce(self) -> float:
        """Weight of the task loss."""

    @property
    def parts(self) -> "tuple[Loss, ...]":
        """The losses that it is the sum of: itself, of one."""

    def require_size(self, rows: int, classes: int) -> None:
        """Check that logits of so many rows, of all processes, and classes can be compared.

        Raises:
            UsageError: there are too many.
        """

    def terms(
        self, student_logits: LogitRows | Maps, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted float32 terms that are added to the task loss, by name."""


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


def require_activation(activation: str, *, standardize: bool) -> None:
    """Raise a UsageError if probabilities of a row cannot be made so."""
    choose(activation, get_args(Activation), "activation")
    if activation == "sigmoid" and standardize:
        raise UsageError(
            "standardize is for a softmax, which forgets a row's mean; leave it out with"
            " activation=sigmoid"
        )


def require_tau(tau: float) -> None:
    """Raise a UsageError if a temperature is not above 0, or not finite."""
    if not hasattr(tau, "__float__"):
        raise UsageError(f"tau is {quoted(tau)}; it must be a number above 0")
    if not 0 < tau < math.inf:
        raise UsageError(f"tau is {tau}; it must be above 0, and finite")


def tempered(logits: LogitRows, *, tau: float, standardize: bool) -> LogitRows:
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
    student = tempered(student_logits, tau=tau, standardize=standardize)
    # the softmax forgets the row's mean
    temperature: float | Tensor = tau
    if standardize:
        temperature = tau * (rows.std() + _STD_EPS)
    target = rows.probs(temperature, tempered_student=student.detach())
    _require_same(student, target)
    return student, target


def sigmoid_pair(
    student_logits: LogitRows, teacher: LogitRows | SoftTargets, *, tau: float
) -> tuple[LogitRows, ProbabilityRows]:
    """Return the student's logits over the temperature, and of the teacher's the sigmoid, both in
    float32.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    student, teacher_logits = tempered_pair_of_rows(
        student_logits, teacher, tau=tau, standardize=False
    )
    return student, torch.sigmoid(teacher_logits)


def tempered_pair(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    tau: float,
    standardize: bool,
) -> tuple[Logits, Logits]:
    """Return the logits of student and teacher over the temperature, in float32.

    Raises:
        UsageError: a temperature that is not above 0, logits of different shapes, not as many
            labels as rows, or a teacher whose rows do not hold the label's logit.
    """
    rows = as_soft_targets(teacher)
    require_rows(student_logits, rows)
    if not keeps_all(rows):
        raise UsageError(
            "this loss needs the label's logit, and the teacher's rows hold only the largest; use a"
            " cache with codec full or lowrank, or dist_loss or kl_loss"
        )
    _require_labels(targets, student_logits)
    return tempered_pair_of_rows(student_logits, teacher, tau=tau, standardize=standardize)


def tempered_pair_of_rows(
    student_logits: LogitRows, teacher: LogitRows | SoftTargets, *, tau: float, standardize: bool
) -> tuple[LogitRows, LogitRows]:
    """Return the logits of student and teacher over the temperature, in float32.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    rows = as_soft_targets(teacher)
    require_rows(student_logits, rows)
    student = tempered(student_logits, tau=tau, standardize=standardize)
    target = tempered(rows.logits(), tau=tau, standardize=standardize)
    _require_same(student, target)
    return student, target


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


def _require_labels(targets: Tensor, logits: Tensor) -> None:
    """Raise a UsageError if there is not a class index for each row."""
    if not torch.is_tensor(targets):
        raise UsageError(
            f"targets are {quoted(targets)}; give a tensor with a class index for each of the"
            f" {len(logits)} rows, int64"
        )
    # torch takes no other integers as indices
    if targets.shape != logits.shape[:1] or targets.dtype not in (torch.int32, torch.int64):
        raise UsageError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}; give a class index for"
            f" each of the {len(logits)} rows, int64"
        )
    # elsewhere the device would be waited for, and a compiled step broken in two
    can_look = targets.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_look and len(targets):
        low = targets.min()
        high = targets.max()
        if low < 0 or high >= logits.shape[1]:
            raise UsageError(
                f"targets are from {int(low)} to {int(high)}; the logits have classes 0 to"
                f" {logits.shape[1] - 1}: leave out rows without a class"
            )


def mean_of_rows(values: Tensor) -> Scalar:
    """Return the mean over rows; 0 where there are none, as of views without a proposal."""
    if not len(values):
        return values.sum()
    return values.mean()


def _require_same(student: Tensor, teacher: Tensor) -> None:
    """Raise a UsageError if one side has other rows or classes: torch would repeat a single one."""
    if student.shape != teacher.shape:
        raise UsageError(
            f"the student's logits are of shape {tuple(student.shape)}, the teacher's of"
            f" {tuple(teacher.shape)}; both must be of the same rows and classes"
        )


def without_label(logits: Tensor, targets: Targets) -> Tensor:
    """Return the logits of all classes but each row's label, `[rows, classes - 1]`.

    A softmax over these is sound also where the label has a probability of 1 within rounding, and
    the rest sums to 0.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= targets[:, None]))


class LossOptions:
    """What the losses share: their options are checked, and they need a teacher unless they say
    otherwise."""

    name: ClassVar[str]
    """The name in its spec."""
    weights: ClassVar[tuple[str, ...]] = ()
    """The options that are weights, if each term has one: they cannot all be 0."""

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher"})

    @property
    def batch_tau(self) -> float | None:
        """None: most losses look at each view alone."""
        return None

    @property
    def parts(self) -> tuple[Any, ...]:
        """The loss itself."""
        return (self,)

    def __post_init__(self) -> None:
        check_options(self)

    def require_size(self, rows: int, classes: int) -> None:
        """Do nothing: most losses take any number."""


def needs_of(
    standardize: bool = False, ignore_masked: bool = False, positions: float = 1.0
) -> frozenset[Need]:
    """Return what a loss on probabilities requires with these options."""
    needs: set[Need] = {"teacher"}
    if standardize:
        needs.add("logits")
    if ignore_masked:
        needs.add("masks")
    if positions < 1:
        needs.add("positions")
    return frozenset(needs)


def check_options(loss: Any) -> None:
    """Raise a UsageError if a weight of a loss is negative, its temperature not above 0, either not
    finite, or all its terms are without weight."""
    for name, value in dataclasses.asdict(loss).items():
        if value is None or isinstance(value, str):
            continue
        numbers = value
        if not isinstance(value, tuple):
            numbers = (value,)
        for number in numbers:
            _check_number(loss.name, name, number)
    positions = getattr(loss, "positions", 1.0)
    if not 0 < positions <= 1:
        raise UsageError(
            f"loss {loss.name}: positions={positions:g} must be above 0 and at most 1, which is all"
        )
    if loss.weights and not any(getattr(loss, name) for name in loss.weights):
        raise UsageError(
            f"loss {loss.name}: with {'=0 and '.join(loss.weights)}=0 there is"
            " nothing to train on; give one of them a weight"
        )


def _check_number(loss: str, name: str, number: float) -> None:
    """Raise a UsageError for a weight or temperature out of its range."""
    bound = "0 or more"
    is_tau = name in ("tau", "taus")
    if is_tau:
        bound = "above 0"
    if not math.isfinite(number) or number < 0 or (is_tau and number == 0):
        raise UsageError(f"loss {loss}: {name}={number} must be {bound}")
