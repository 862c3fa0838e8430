"""Pearson's correlations of two matrices, by row and by column, with their gradient in closed form.

With a and b the centred values, a correlation is a.b / (|a| |b| + eps). Its derivative in a is
b / d - (a.b |b| / (d^2 |a|)) a, with d = |a| |b| + eps. Since a and b sum to 0, so does that, and
nothing is left of the centring. Values are centred anew in the backward pass, not kept: sums of
values that are not would lose the digits that a column of small variance has.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.runtime.distributed import all_sum
from kdcache.shapes import Scalar

_EPS = 1e-8  # of the published code; below it a column that hardly varies is silently off


def mean_correlations(student: Tensor, target: Tensor, *, is_shared: bool) -> tuple[Scalar, Scalar]:
    """Return the mean correlation of rows, and that of columns; 0 where one of two is constant, and
    for the rows where there are none.

    Args:
        student: `[rows, columns]`, which takes the gradient.
        target: of the same shape, which takes none.
        is_shared: whether columns go over the rows of all processes. Each must make the call, and
            the mean of their gradients is that of one process with all rows.
    """
    rows, columns = _MeanCorrelations.apply(student, target, is_shared)
    return rows, columns


class _MeanCorrelations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, target: Tensor, is_shared: bool
    ) -> tuple[Tensor, Tensor]:
        row_means = (student.mean(1, keepdim=True), target.mean(1, keepdim=True))
        own = student - row_means[0]
        other = target - row_means[1]
        products = own * other
        of_rows = (products.sum(1, keepdim=True), _norms(own), _norms(other))
        column_means = _column_means(student, target, is_shared=is_shared)
        # the same memory for what is centred by column
        torch.sub(student, column_means[0], out=own)
        torch.sub(target, column_means[1], out=other)
        torch.mul(own, other, out=products)
        own.mul_(own)
        other.mul_(other)
        sums = torch.stack([products.sum(0), own.sum(0), other.sum(0)])
        if is_shared:
            sums = all_sum(sums)
        dots, own_squares, other_squares = sums
        of_columns = (dots, own_squares.sqrt(), other_squares.sqrt())
        ctx.is_shared = is_shared
        ctx.save_for_backward(student, target, *row_means, *column_means, *of_rows, *of_columns)
        row_sum = _correlations(*of_rows).sum()
        return row_sum / max(len(student), 1), _correlations(*of_columns).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_grad: Tensor, column_grad: Tensor) -> tuple[Tensor, None, None]:
        student, target, *vectors = ctx.saved_tensors
        row_means = vectors[:2]
        column_means = vectors[2:4]
        if ctx.is_shared:  # a column is in the loss of every process
            column_grad = all_sum(column_grad.reshape(1))
        num_rows, num_columns = student.shape
        of_rows = _factors(row_grad / max(num_rows, 1), *vectors[4:7])
        of_columns = _factors(column_grad / num_columns, *vectors[7:10])
        grad = (target - row_means[1]).mul_(of_rows[0])
        centred = student - row_means[0]
        grad.addcmul_(centred, of_rows[1], value=-1)
        torch.sub(target, column_means[1], out=centred)
        grad.addcmul_(centred, of_columns[0])
        torch.sub(student, column_means[0], out=centred)
        grad.addcmul_(centred, of_columns[1], value=-1)
        return grad, None, None


def _norms(centred: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return norms


def _column_means(student: Tensor, target: Tensor, *, is_shared: bool) -> tuple[Tensor, Tensor]:
    """Return the means of the columns of both; of several processes two sums a column travel."""
    if not is_shared:
        return student.mean(0), target.mean(0)
    num_rows = student.new_full((1,), len(student))
    sums = all_sum(torch.cat([student.sum(0), target.sum(0), num_rows]))
    own, other = (sums[:-1] / sums[-1]).chunk(2)
    return own, other


def _correlations(dots: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Return correlations of products of centred values, and the norms of both sides."""
    return dots / (own * other + _EPS)


def _factors(grad: Tensor, dots: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the gradient has of the target's centred values, and less of the student's.

    Args:
        grad: of the loss by each correlation.
        dots: products of the centred values.
        own: norms of the student's.
        other: norms of the target's.
    """
    divisors = own * other + _EPS
    smallest = torch.finfo(own.dtype).tiny
    of_target = grad / divisors
    shares = dots / own.clamp_min(smallest)  # at most a norm of the target's
    return of_target, of_target * shares * other / divisors
