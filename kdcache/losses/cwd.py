"""CWD: each class's map as a distribution over the pixels of its view.

Shu, Liu, Gao, Yan, Shen: Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021
(equations 3 and 4).
"""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError
from kdcache.losses.checks import as_soft_targets, require_logits, require_tau
from kdcache.losses.options import LossOptions
from kdcache.losses.protocol import Need
from kdcache.shapes import Logits, Maps, Scalar, Targets
from kdcache.soft_targets import SoftTargets, require_one_segment


def cwd_loss(student: Maps, teacher: Logits | SoftTargets, *, tau: float = 4.0) -> Scalar:
    """Return tau^2 KL(teacher || student) of softmaxes over the pixels, the mean over views and
    classes, a float32 scalar.

    Args:
        student: maps `[views, height, width, classes]`, any dtype.
        teacher: raw logits of the same pixels as rows, view by view and line by line, or a codec's
            decoded rows.
        tau: temperature of both softmaxes.

    Raises:
        UsageError: a temperature that is not above 0, or logits of different shapes.
    """
    require_tau(tau)
    soft_targets = as_soft_targets(teacher)
    require_one_segment(soft_targets)
    teacher_rows = soft_targets.logits()
    _require_maps(student, teacher_rows)
    student_maps = student.float().flatten(1, 2) / tau
    teacher_maps = teacher_rows.reshape(student_maps.shape) / tau
    log_student = _over_pixels(student_maps)
    log_teacher = _over_pixels(teacher_maps)
    loss: Scalar = tau**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean()
    return loss


def _require_maps(student: Tensor, teacher: Tensor) -> None:
    """Raise a UsageError if a student's logits are no maps of the teacher's pixels and classes:
    with the classes first, as torch has them, there would be as many numbers."""
    require_logits(student)
    is_of_maps = student.ndim == 4 and teacher.shape[-1] == student.shape[-1]
    if not is_of_maps or teacher.numel() != student.numel():
        raise UsageError(
            f"the student's maps are of shape {tuple(student.shape)}, the teacher's rows of"
            f" {tuple(teacher.shape)}; give maps [views, height, width, classes] of the same pixels"
        )


def _over_pixels(maps: Tensor) -> Tensor:
    return torch.log_softmax(maps, dim=1)


@dataclass(frozen=True, kw_only=True)
class Cwd(LossOptions):
    """The loss `cwd`: ce * CE + weight * CWD; for segmentation."""

    name: ClassVar[str] = "cwd"
    weights: ClassVar[tuple[str, ...]] = ("ce", "weight")
    tau: float = 4.0
    weight: float = 3.0
    """The authors' weight for the maps of logits."""
    ce: float = 1.0

    @property
    def requires(self) -> frozenset[Need]:
        """What it must be given."""
        return frozenset({"teacher", "logits", "maps"})

    def terms(
        self, student_logits: Maps, teacher: SoftTargets, targets: Targets
    ) -> dict[str, Scalar]:
        """Return the weighted term `cwd`."""
        return {"cwd": self.weight * cwd_loss(student_logits, teacher, tau=self.tau)}
