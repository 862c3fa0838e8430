"""Losses on Pearson's correlations of a student's probabilities with a teacher's, by row and by
column, with the gradient by the student's logits in closed form.

With a and b the centred values, a correlation is r = a.b / d, with d = |a| |b| + eps. Its
derivative in a is b / d - (r |b| / (|a| d)) a. Since a and b sum to 0, so does that, and nothing is
left of the centring. Values are centred anew in the backward pass, not kept, and before they are
squared: sums of those that are not would lose the digits that a column of small variance has.

Student and target lie side by side in one tensor where both go through the same operations: on a
GPU, and for few classes on a CPU, a loss takes as long as the number of its operations. Of large
matrices rows are taken some at a time: what is made of them stays in a processor's cache, and never
more than the two matrices and the gradient is whole.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.runtime.distributed import all_sum
from kdcache.shapes import Activation, LogitRows, ProbabilityRows, Scalar

_EPS = 1e-8  # of the published code; below it a column that hardly varies is silently off
_CPU_ELEMENTS = 2**18
_DEVICE_ELEMENTS = 2**21
"""Elements that are worked on at a time: a megabyte, and, where each operation is a launch, as many
as take longer than the launch."""


def correlation_losses(
    logits: LogitRows,
    student: ProbabilityRows,
    target: ProbabilityRows,
    *,
    weights: tuple[float, float],
    activation: Activation,
    is_shared: bool,
) -> tuple[Scalar, Scalar]:
    """Return weight * (1 - mean correlation), of rows and of columns; a correlation is 0 where one
    of two is constant, and the mean of no rows is NaN.

    Args:
        logits: of the student, which take the gradient; `[rows, classes]`, or of several anchors a
            place `[places, anchors, row width]`, which make one row.
        student: their probabilities, without a gradient.
        target: the teacher's, of the same shape.
        weights: of rows, and of columns.
        activation: how the student's come from its logits.
        is_shared: whether columns go over the rows of all processes. Each must make the call, and
            the mean of their gradients is that of one process with all rows.
    """
    row_mean = None
    if activation == "softmax":
        row_mean = 1 / logits.shape[-1]
    options = _Options(weights, activation, row_mean, is_shared)
    of_rows, of_columns = _CorrelationLosses.apply(logits, student, target, options)
    return of_rows, of_columns


class _Options(NamedTuple):
    weights: tuple[float, float]
    activation: Activation
    row_mean: float | None
    """Of all rows of both, if it is known."""
    is_shared: bool


class _CorrelationLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, _: Tensor, student: Tensor, target: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        means, pairs = _column_means(
            student.flatten(1), target.flatten(1), is_shared=options.is_shared
        )
        row_dots = []
        row_norms = []
        columns = []
        for pair in pairs:
            columns.append(_column_products(pair, means))
            dots, norms = _row_products(pair, options.row_mean)
            row_dots.append(dots)
            row_norms.append(norms)
        column_dots, column_norms = _column_totals(columns, is_shared=options.is_shared)
        norms = torch.cat([*row_norms, column_norms], dim=1)
        own, other = norms.unbind()
        divisors = (own * other).add_(_EPS)
        correlations = torch.cat([*row_dots, column_dots]).div_(divisors)
        ctx.save_for_backward(student, target, means, norms, divisors, correlations)
        ctx.options = options
        sizes = [len(student), means.shape[-1]]
        of_rows, of_columns = torch.split(correlations, sizes)
        row_weight, column_weight = options.weights
        return row_weight * (1 - of_rows.mean()), column_weight * (1 - of_columns.mean())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, row_grad: Tensor, column_grad: Tensor
    ) -> tuple[Tensor, None, None, None]:
        student, target, means, norms, divisors, correlations = ctx.saved_tensors
        options = ctx.options
        if options.is_shared:  # a column is in the loss of every process
            column_grad = all_sum(column_grad.reshape(1))
        sizes = [len(student), means.shape[-1]]
        row_weight, column_weight = options.weights
        of_rows = (row_grad * (-row_weight / max(sizes[0], 1))).expand(sizes[0])
        of_columns = (column_grad * (-column_weight / sizes[1])).expand(sizes[1])
        of_other = torch.cat([of_rows, of_columns]).div_(divisors)
        of_own = _own_factors(of_other, correlations, norms)
        row_own, column_own = torch.split(of_own, sizes)
        row_other, column_other = torch.split(of_other, sizes)
        factors = _Factors(row_own, column_own, row_other, column_other, means)
        parts = _parts(student.flatten(1))
        if len(parts) == 1:
            return _gradient(student, target, factors, options), None, None, None
        grad = torch.empty_like(student)
        for rows in parts:
            grad[rows] = _gradient(student[rows], target[rows], factors.of_rows(rows), options)
        return grad, None, None, None


class _Factors(NamedTuple):
    """What a gradient has of the centred values: of the student's those with `own`, which are taken
    off, and of the target's those with `other`."""

    row_own: Tensor
    column_own: Tensor
    row_other: Tensor
    column_other: Tensor
    means: Tensor
    """Of the columns, `[2, 1, columns]`."""

    def of_rows(self, rows: slice) -> "_Factors":
        """Return those of some rows."""
        return self._replace(row_own=self.row_own[rows], row_other=self.row_other[rows])


def _gradient(student: Tensor, target: Tensor, factors: _Factors, options: _Options) -> Tensor:
    """Return the gradient by the logits of some rows."""
    own = student.flatten(1)
    other = target.flatten(1)
    own_means, other_means = factors.means.unbind()
    grad = (other - other_means).mul_(factors.column_other)
    centred = own - own_means
    grad.addcmul_(centred, factors.column_own, value=-1)
    _centre_rows(other, options.row_mean, out=centred)
    grad.addcmul_(centred, factors.row_other[:, None])
    _centre_rows(own, options.row_mean, out=centred)
    grad.addcmul_(centred, factors.row_own[:, None], value=-1)
    return _to_logits(grad.view_as(student), student, options.activation)


def _to_logits(grad: Tensor, probabilities: Tensor, activation: Activation) -> Tensor:
    """Return the gradient by logits, of that by their probabilities."""
    by_logits: Tensor
    if activation == "sigmoid":
        by_logits = torch.ops.aten.sigmoid_backward(grad, probabilities)
    else:
        by_logits = torch.ops.aten._softmax_backward_data(
            grad, probabilities, -1, probabilities.dtype
        )
    return by_logits


def _centre_rows(values: Tensor, row_mean: float | None, *, out: Tensor) -> None:
    """Write values less the mean of their row, over the last axis."""
    if row_mean is None:
        torch.sub(values, values.mean(-1, keepdim=True), out=out)
    else:
        torch.sub(values, row_mean, out=out)


def _own_factors(of_other: Tensor, correlations: Tensor, norms: Tensor) -> Tensor:
    """Return what is taken off of the student's centred values, by row and column.

    Args:
        of_other: what is added of the target's: the gradient by each correlation, over its divisor.
        correlations: `[rows + columns]`.
        norms: of the centred values of both sides.
    """
    own, other = norms.unbind()
    smallest = torch.finfo(own.dtype).tiny
    return (correlations * of_other).mul_(other).div_(own.clamp_min(smallest))


def _parts(matrix: Tensor) -> list[slice]:
    """Return which rows are worked on at a time: at most a quarter of them, where they are many."""
    most = _DEVICE_ELEMENTS
    if matrix.device.type == "cpu":
        most = _CPU_ELEMENTS
    num_rows, num_columns = matrix.shape
    count = max(min(most, max(matrix.numel() // 4, _CPU_ELEMENTS)) // num_columns, 1)
    if torch.compiler.is_compiling() or num_rows <= count:
        return [slice(0, num_rows)]
    return [slice(start, start + count) for start in range(0, num_rows, count)]


def _column_means(
    own: Tensor, other: Tensor, *, is_shared: bool
) -> tuple[Tensor, Iterable[Tensor]]:
    """Return the means of the columns of both, `[2, 1, columns]`, and both side by side,
    `[2, rows, columns]`, some rows at a time."""
    parts = _parts(own)
    pairs: Iterable[Tensor]
    if len(parts) == 1:
        pair = torch.stack([own, other])
        pairs = [pair]
        sums = pair.sum(1, keepdim=True)
    else:
        pairs = (torch.stack([own[rows], other[rows]]) for rows in parts)
        sums = torch.stack([own.sum(0, keepdim=True), other.sum(0, keepdim=True)])
    if not is_shared:
        return sums.div_(len(own)), pairs
    # the sums of several processes travel
    num_rows = own.new_full((1,), len(own))
    totals = all_sum(torch.cat([sums.flatten(), num_rows]))
    return (totals[:-1] / totals[-1]).view_as(sums), pairs


def _column_products(pair: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the products of both sides' centred values, `[columns]`, and the squares of each,
    `[2, columns]`, summed."""
    centred = pair - means
    own, other = centred.unbind()
    dots = (own * other).sum(0)
    return dots, centred.mul_(centred).sum(1)


def _row_products(pair: Tensor, row_mean: float | None) -> tuple[Tensor, Tensor]:
    """Return the products of both sides' centred values, `[rows]`, and the norms of each,
    `[2, rows]`. The values of `pair` are used up."""
    _centre_rows(pair, row_mean, out=pair)
    norms = torch.linalg.vector_norm(pair, dim=2)
    own, other = pair.unbind()
    return own.mul_(other).sum(1), norms


def _column_totals(
    parts: Sequence[tuple[Tensor, Tensor]], *, is_shared: bool
) -> tuple[Tensor, Tensor]:
    """Return the products of all rows, `[columns]`, and the norms of both sides, `[2, columns]`."""
    dots, squares = parts[0]
    for more_dots, more_squares in parts[1:]:
        dots += more_dots
        squares += more_squares
    if is_shared:
        totals = all_sum(torch.cat([dots[None], squares]))
        dots = totals[0]
        squares = totals[1:]
    return dots, squares.sqrt_()
