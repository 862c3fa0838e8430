"""For losses that take each row's label by itself, apart from the other classes."""

from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError, quoted
from kdcache.losses.checks import as_soft_targets, require_rows
from kdcache.losses.pairs import tempered_pair
from kdcache.shapes import Logits, Targets
from kdcache.soft_targets import SoftTargets, keeps_all


def tempered_pair_with_labels(
    student_logits: Logits,
    teacher: Logits | SoftTargets,
    targets: Targets,
    *,
    tau: float,
    standardize: bool,
) -> tuple[Logits, Logits]:
    """Return what `tempered_pair` does, of rows in which each label's logit can be looked up.

    Raises:
        UsageError: as of `tempered_pair`; not as many labels as rows; a teacher whose rows do not
            hold the label's logit.
    """
    rows = as_soft_targets(teacher)
    require_rows(student_logits, rows)
    if not keeps_all(rows):
        raise UsageError(
            "this loss needs the label's logit, and the teacher's rows hold only the largest; use a"
            " cache with codec full or lowrank, or dist_loss or kl_loss"
        )
    _require_labels(targets, student_logits)
    return tempered_pair(student_logits, teacher, tau=tau, standardize=standardize)


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


def without_label(logits: Tensor, targets: Targets) -> Tensor:
    """Return the logits of all classes but each row's label, `[rows, classes - 1]`.

    A softmax over these is sound also where the label has a probability of 1 within rounding, and
    the rest sums to 0.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= targets[:, None]))
