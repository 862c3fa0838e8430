"""What the first batch of a model tells: whether its logits are logits, and can be learnt from.

It is looked at once, before the first step of a training and the first record of a dump.
"""

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.models.vision_model import VisionModel, head_weight
from kdcache.runtime.console import say
from kdcache.shapes import Logits, ViewLogits

_SUM_ERROR = 0.01
"""By which rows of probabilities in half precision may miss 1."""
_FEWEST = 64
"""Values of a batch below which chance could put all of them between 0 and 1."""
_EQUAL = 1e-6
"""Part of the largest logit by which rounding may tell equal ones apart."""


def require_trainable(student: VisionModel) -> None:
    """Check that a student has something to learn with.

    Raises:
        ModelError: none of its parameters takes a gradient.
    """
    fault = "are none at all"
    for parameter in student.module.parameters():
        if parameter.requires_grad:
            return
        fault = "are all frozen (requires_grad is False)"
    way_out = "let it have some that take a gradient"
    raise ModelError(f"model {student.spec} cannot be trained: its parameters {fault}; {way_out}")


def check_student(student: VisionModel, logits: ViewLogits, classes: int) -> None:
    """Check the logits of a student's first batch, and say so if they seem to be none.

    Raises:
        ModelError: they have another shape than they had when the student was opened, are not
            finite, or do not depend on any of its parameters.
    """
    usual_shape = (*student.sites, student.layout.row_width(classes))
    shape = tuple(logits.shape[1:])
    lead = f"model {student.spec}, when it is trained, gives logits"
    if shape != usual_shape:
        raise ModelError(f"{lead} of shape {shape} per view, and {usual_shape} otherwise; mend it")
    if not logits.requires_grad:
        way_out = "leave out detach, no_grad, argmax and the like in its forward"
        raise ModelError(f"{lead} that depend on none of its parameters; {way_out}")
    require_finite(student, logits)
    tell_no_logits(student, logits)


def check_gradients(student: VisionModel) -> None:
    """Check that all of a student's parameters have a gradient, as several processes need it.

    Raises:
        ModelError: one that takes a gradient has had no part in the first loss.
    """
    for name, parameter in student.module.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ModelError(
                f"model {student.spec} does not use its parameter {name}, which several processes "
                "cannot train with; freeze it (requires_grad_(False)), or leave it out of the model"
            )


def require_finite(model: VisionModel, logits: ViewLogits) -> None:
    """Check that logits are finite.

    Raises:
        ModelError: one is not.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"model {model.spec} gives NaN or infinite logits on its first batch; check its "
            "weights, its mean and std, and the precision"
        )


def tell_no_logits(model: VisionModel, logits: ViewLogits) -> None:
    """Say what is wrong with logits that seem to be none; nothing where all is well."""
    fault = logits_fault(logits)
    if fault is None and not _starts_at_zero(model, logits.shape[-1]):
        fault = _constant_fault(logits)
    if fault is not None:
        say(f"note: model {model.spec} {fault}")


def logits_fault(logits: ViewLogits) -> str | None:
    """Return what speaks against a batch being logits, as the end of a sentence on their model."""
    rows = _rows(logits)
    if rows.shape[1] < 2 or rows.numel() < _FEWEST or float(rows.min()) < 0:
        return None
    sum_errors = (rows.sum(1) - 1).abs()
    if float(sum_errors.max()) < _SUM_ERROR:
        return (
            "gives rows that sum to 1: probabilities and not logits, of which losses would take "
            "the softmax again; let it end before its softmax"
        )
    if float(rows.min()) < float(rows.max()) <= 1:
        return (
            "gives values between 0 and 1 only, as after a sigmoid: losses take the softmax of raw "
            "logits; let it end before its sigmoid"
        )
    return None


def _constant_fault(logits: ViewLogits) -> str | None:
    rows = _rows(logits)
    largest = float(logits.detach().abs().max())
    most_spread = _EQUAL * largest
    row_spreads = rows.amax(1) - rows.amin(1)
    if rows.shape[1] > 1 and float(row_spreads.max()) <= most_spread:
        return "gives all classes the same logit, for every view; are its weights loaded?"
    views = logits.detach().float().flatten(1)
    view_spreads = (views - views[:1]).abs()
    if len(views) > 1 and float(view_spreads.max()) <= most_spread:
        way_out = "are its weights loaded, and do mean and std fit?"
        return f"gives the same logits for every view of its first batch; {way_out}"
    return None


def _starts_at_zero(model: VisionModel, classes: int) -> bool:
    """Return whether a model's last layer is zeros still, as some are at first: it can learn."""
    head = head_weight(model, classes)
    return head is not None and not bool(head.any())


def _rows(logits: ViewLogits) -> Logits:
    rows: Tensor = logits.detach().float().reshape(-1, logits.shape[-1])
    return rows
