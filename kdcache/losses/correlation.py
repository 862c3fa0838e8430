"""Pearson's correlations of a student's probabilities with a teacher's, by row and by column, with
the gradient by the student's logits in closed form.

With a and b the centred values, a correlation is a.b / (|a| |b| + eps). Its derivative in a is
b / d - (a.b |b| / (d^2 |a|)) a, with d = |a| |b| + eps. Since a and b sum to 0, so does that, and
nothing is left of the centring. Values are centred anew in the backward pass, not kept, and before
they are squared: sums of those that are not would lose the digits that a column of small variance
has.

Rows are taken some at a time: what is made of them stays in a processor's cache, and never more
than the two matrices and the gradient is whole.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.runtime.distributed import all_sum
from kdcache.shapes import Activation, LogitRows, ProbabilityRows, Scalar

_EPS = 1e-8  # of the published code; below it a column that hardly varies is silently off
_CPU_ELEMENTS = 2**17
_DEVICE_ELEMENTS = 2**24
"""Elements that are worked on at a time: half a megabyte, and, where each operation is a launch, as
many as memory has room for."""


def mean_correlations(
    logits: LogitRows,
    student: ProbabilityRows,
    target: ProbabilityRows,
    *,
    activation: Activation,
    is_shared: bool,
) -> tuple[Scalar, Scalar]:
    """Return the mean correlation of rows, and that of columns; 0 where one of two is constant, and
    for the rows where there are none.

    Args:
        logits: of the student, which take the gradient; `[rows, classes]`, or of several anchors a
            place `[places, anchors, row width]`, which make one row.
        student: their probabilities, without a gradient.
        target: the teacher's, of the same shape.
        activation: how the student's come from its logits.
        is_shared: whether columns go over the rows of all processes. Each must make the call, and
            the mean of their gradients is that of one process with all rows.
    """
    rows, columns = _MeanCorrelations.apply(logits, student, target, activation, is_shared)
    return rows, columns


class _MeanCorrelations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        _: Tensor,
        student: Tensor,
        target: Tensor,
        activation: Activation,
        is_shared: bool,
    ) -> tuple[Tensor, Tensor]:
        means = _column_means(student.flatten(1), target.flatten(1), is_shared=is_shared)
        of_rows = []
        of_columns = means.new_zeros(3, means.shape[1])
        for _rows, own, other in _parts(student, target):
            of_rows.append(_row_products(own, other))
            of_columns += _column_products(own - means[0], other - means[1])
        if is_shared:
            of_columns = all_sum(of_columns)
        of_columns[1:].sqrt_()
        products = torch.cat([*of_rows, of_columns], dim=1)
        ctx.activation = activation
        ctx.is_shared = is_shared
        ctx.save_for_backward(student, target, means, products)
        correlations = products[0] / (products[1] * products[2] + _EPS)
        num_rows = len(student)
        return correlations[:num_rows].sum() / max(num_rows, 1), correlations[num_rows:].mean()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, row_grad: Tensor, column_grad: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        student, target, means, products = ctx.saved_tensors
        if ctx.is_shared:  # a column is in the loss of every process
            column_grad = all_sum(column_grad.reshape(1))
        num_rows = len(student)
        num_columns = means.shape[1]
        grads = torch.cat(
            [
                (row_grad / max(num_rows, 1)).expand(num_rows),
                (column_grad / num_columns).expand(num_columns),
            ]
        )
        of_own, of_other = _factors(grads, products)
        grad = torch.empty_like(student)
        for rows, own, other in _parts(student, target):
            part = grad[rows]
            flat = part.view(own.shape)
            torch.sub(other, other.mean(1, keepdim=True), out=flat)
            flat.mul_(of_other[rows, None])
            centred = own - own.mean(1, keepdim=True)
            flat.addcmul_(centred, of_own[rows, None])
            torch.sub(other, means[1], out=centred)
            flat.addcmul_(centred, of_other[num_rows:])
            torch.sub(own, means[0], out=centred)
            flat.addcmul_(centred, of_own[num_rows:])
            _to_logits_(part, student[rows], ctx.activation)
        return grad, None, None, None, None


def _to_logits_(grad: Tensor, probabilities: Tensor, activation: Activation) -> None:
    """Turn, in place, a gradient by probabilities into that by their logits."""
    grad.mul_(probabilities)
    if activation == "sigmoid":
        grad.addcmul_(grad, probabilities, value=-1)
    else:
        grad.addcmul_(probabilities, grad.sum(-1, keepdim=True), value=-1)


def _parts(student: Tensor, target: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield some rows at a time, which they are, and both matrices of them; at least once."""
    own = student.flatten(1)
    other = target.flatten(1)
    num_elements = _DEVICE_ELEMENTS
    if own.device.type == "cpu":
        num_elements = _CPU_ELEMENTS
    count = max(num_elements // own.shape[1], 1)
    if torch.compiler.is_compiling() or len(own) <= count:
        yield slice(0, len(own)), own, other
        return
    for start in range(0, len(own), count):
        rows = slice(start, min(start + count, len(own)))
        yield rows, own[rows], other[rows]


def _row_products(own: Tensor, other: Tensor) -> Tensor:
    """Return, `[3, rows]`, the products of the centred values of each row, and the norms of both
    sides."""
    own = own - own.mean(1, keepdim=True)
    other = other - other.mean(1, keepdim=True)
    norms = [torch.linalg.vector_norm(side, dim=1) for side in (own, other)]
    return torch.stack([own.mul_(other).sum(1), *norms])


def _column_products(own: Tensor, other: Tensor) -> Tensor:
    """Return, `[3, columns]`, sums of the products of centred values, and of the squares of both
    sides, which are used up."""
    dots = (own * other).sum(0)
    return torch.stack([dots, own.square_().sum(0), other.square_().sum(0)])


def _column_means(own: Tensor, other: Tensor, *, is_shared: bool) -> Tensor:
    """Return the means of the columns of both, `[2, columns]`; of several processes sums travel."""
    sums = torch.stack([own.sum(0), other.sum(0)])
    if not is_shared:
        return sums / len(own)
    num_rows = own.new_full((1,), len(own))
    totals = all_sum(torch.cat([sums.flatten(), num_rows]))
    return (totals[:-1] / totals[-1]).view(2, -1)


def _factors(grad: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the gradient has of the student's centred values, and of the target's.

    Args:
        grad: of the loss by each correlation.
        products: of the centred values, and the norms of both sides.
    """
    dots, own, other = products
    divisors = own * other + _EPS
    smallest = torch.finfo(own.dtype).tiny
    of_target = grad / divisors
    shares = dots / own.clamp_min(smallest)  # at most a norm of the target's
    return -of_target * shares * other / divisors, of_target
