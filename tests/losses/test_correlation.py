"""The closed gradient of correlations is that of autograd through the textbook's formula."""

import math
from typing import Any

import pytest
import torch
from losses.references import pearson
from torch import Tensor

from kdcache.losses.correlation import correlation_losses

SHAPES = [(2, 2), (7, 5), (64, 100), (3, 1000), (500, 3), (2700, 100)]
"""The last has more elements than are worked on at a time."""
WEIGHTS = (0.7, 1.9)


def drawn(rows: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def probabilities(rows: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    return drawn(rows, classes, seed, scale).softmax(1)


def by_autograd(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    student = logits.softmax(1)
    of_rows = 1 - pearson(student, target, 1).mean()
    of_columns = 1 - pearson(student, target, 0).mean()
    return WEIGHTS[0] * of_rows, WEIGHTS[1] * of_columns


def closed(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    student = logits.detach().softmax(1)
    return correlation_losses(
        logits, student, target, weights=WEIGHTS, activation="softmax", is_shared=False
    )


def values_and_gradient(function: Any, student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both losses, and the gradient of an uneven sum of them."""
    own = student.clone().requires_grad_()
    rows, columns = function(own, target)
    (gradient,) = torch.autograd.grad(rows + 0.3 * columns, own)
    return torch.stack([rows, columns]).detach(), gradient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_values_and_gradients_are_those_of_autograd(shape: tuple[int, int], scale: float) -> None:
    student = drawn(*shape, seed=1, scale=scale)
    target = probabilities(*shape, seed=2)
    expected = values_and_gradient(by_autograd, student, target)
    found = values_and_gradient(closed, student, target)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    error = (found[1] - expected[1]).norm() / expected[1].norm().clamp_min(1e-12)
    assert error < 1e-8
    single = values_and_gradient(closed, student.float(), target.float())
    torch.testing.assert_close(single[0].double(), expected[0], rtol=1e-4, atol=1e-5)


def test_it_is_the_derivative_of_what_it_gives() -> None:
    student = drawn(5, 4, seed=1).requires_grad_()
    target = probabilities(5, 4, seed=2)
    assert torch.autograd.gradcheck(lambda values: closed(values, target), student)


@pytest.mark.parametrize("which", ["row", "column", "all", "target"])
def test_where_one_is_constant_there_is_no_correlation_and_a_finite_gradient(which: str) -> None:
    student = drawn(6, 4, seed=1)
    target = probabilities(6, 4, seed=2)
    if which == "row":
        student[2] = 0.25
    elif which == "column":
        rest = student[:, [0, 2, 3]].softmax(1)
        student = (rest * 0.75).log()
        student = torch.cat([student[:, :1], torch.full((6, 1), math.log(0.25)), student[:, 1:]], 1)
    elif which == "all":
        student[:] = 0.25
    else:
        target[:] = 0.25
    losses, gradient = values_and_gradient(closed, student, target)
    expected = torch.stack(by_autograd(student, target))
    torch.testing.assert_close(losses, expected)
    assert torch.isfinite(gradient).all()
    if which in ("all", "target"):
        assert losses.tolist() == pytest.approx(WEIGHTS, abs=1e-6)
    else:
        expected_gradient = values_and_gradient(by_autograd, student, target)[1]
        torch.testing.assert_close(gradient, expected_gradient)


def test_equal_matrices_lose_nothing() -> None:
    student = drawn(6, 4, seed=1)
    losses, gradient = values_and_gradient(closed, student, student.softmax(1))
    assert losses.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert gradient.abs().max() < 1e-5
