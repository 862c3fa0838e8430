"""MLKD is the paper's, in value and gradient, and the same over any number of processes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from losses import references
from losses.references import Case, cases, grad, logits
from processes import launch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.losses import kl_loss, mlkd_loss, mlkd_terms, open_loss
from kdcache.runtime import distributed
from kdcache.runtime.distributed import rank
from kdcache.soft_targets import DenseTargets

TAUS = (1.0, 4.0)
PARTS = (3, 5)


def reference(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms pair by pair, in float64."""
    instances: list[Tensor] = []
    batch: list[Tensor] = []
    categories: list[Tensor] = []
    for tau in TAUS:
        p = torch.softmax(teacher.double() / tau, 1)
        q = torch.softmax(student.double() / tau, 1)
        for row in range(len(p)):
            instances.append(tau**2 * references.kl(p[row], q[row]) / len(p))
            for other in range(len(p)):
                difference = (p[row] * p[other]).sum() - (q[row] * q[other]).sum()
                batch.append(difference**2 / len(p))
        for column in range(p.shape[1]):
            for other in range(p.shape[1]):
                difference = (p[:, column] * p[:, other] - q[:, column] * q[:, other]).sum()
                categories.append(difference**2 / p.shape[1])
    return sum(instances), sum(batch), sum(categories)  # type: ignore[return-value]


@given(cases(rows=5, classes=6))
def test_values_and_gradients_are_the_papers(case: Case) -> None:
    student, teacher, _ = case
    values = [float(term) for term in mlkd_terms(student, teacher, taus=TAUS)]
    expected = [float(term) for term in reference(student, teacher)]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    for which in range(3):
        gradient = grad(student, lambda z, w=which: mlkd_terms(z, teacher, taus=TAUS)[w])
        exact = grad(student.double(), lambda z, w=which: reference(z, teacher)[w])
        scale = float(exact.abs().max())
        np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-4 * scale + 1e-6)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    student = logits(6, 10)
    teacher = logits(6, 10, seed=1)
    terms = mlkd_terms(student, teacher, taus=(2.0, 3.0, 4.0, 5.0, 6.0))
    assert float(mlkd_loss(student, teacher)) == pytest.approx(float(sum(terms)))


def test_without_the_weights_of_relations_it_is_kl_at_several_temperatures() -> None:
    student = logits(6, 10)
    teacher = logits(6, 10, seed=1)
    loss = open_loss("mlkd:taus=[1,4],batch_weight=0,category_weight=0,instance_weight=0.5")
    terms = loss.terms(student, DenseTargets(teacher), torch.zeros(6, dtype=torch.int64))
    expected = kl_loss(student, teacher, tau=1.0) + kl_loss(student, teacher, tau=4.0)
    assert terms.keys() == {"instances"} and loss.batch_tau is None
    assert float(terms["instances"]) == pytest.approx(0.5 * float(expected))


def relations(rows: slice) -> tuple[float, Any]:
    """Return the terms between rows and between classes, and their gradient by some rows."""
    student = logits(sum(PARTS), 7)[rows].requires_grad_()
    _, batch, categories = mlkd_terms(student, logits(sum(PARTS), 7, seed=1)[rows], taus=TAUS)
    total = batch + 3 * categories
    return float(total.detach()), torch.autograd.grad(total, student)[0].numpy()


def relations_of_own_rows() -> tuple[float, Any, int]:
    """Return the relations, and how often the other process was asked for its number of rows."""
    start = sum(PARTS[: rank()])
    asked: list[int] = []
    all_counts = distributed.all_counts

    def counted(count: int, device: torch.device) -> list[int]:
        asked.append(count)
        return all_counts(count, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "all_counts", counted)
        found = relations(slice(start, start + PARTS[rank()]))
    return *found, len(asked)


def test_two_processes_compare_the_rows_of_both_which_are_counted_once() -> None:
    results = launch(relations_of_own_rows, 2)
    assert [result[2] for result in results] == [1, 1], "each time waits for the device"
    value, gradient = relations(slice(None))
    assert [result[0] for result in results] == pytest.approx([value] * 2, rel=1e-5)
    # DistributedDataParallel divides the sum by the number of processes
    of_both = np.concatenate([result[1] for result in results]) / 2
    np.testing.assert_allclose(of_both, gradient, rtol=1e-4, atol=1e-6)
    assert np.abs(gradient).max() > 1e-3, "a gradient of zero would prove nothing"


def test_more_rows_than_can_be_compared_are_refused_with_the_way_out() -> None:
    pixels = torch.zeros(2**14 + 1, 2)
    with pytest.raises(UsageError, match=r"16,385 rows with each, at most 16,384; set batch_wei"):
        mlkd_terms(pixels, pixels, taus=TAUS)
    _, batch, categories = mlkd_terms(pixels, pixels, taus=TAUS, with_batch=False)
    assert batch == 0 and categories == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mlkd:taus=[]", r"taus is empty; give temperatures, as taus=\[2,3,4,5,6\]"),
        ("mlkd:taus=[1,0]", r"taus=0\.0 must be above 0"),
        ("mlkd:taus=4", r"taus is 4; it must be a list, such as \[3,4\]"),
    ],
)
def test_temperatures_that_are_none_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_loss(spec)
