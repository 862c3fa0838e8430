"""Sums of losses, and the mean square of logits."""

import pytest
import torch
from losses.references import grad, labels, logits

from kdcache.errors import UsageError
from kdcache.losses import mse_loss, open_loss
from kdcache.soft_targets import DenseTargets


def test_a_sum_has_the_terms_of_all() -> None:
    student, teacher, targets = logits(6, 10), DenseTargets(logits(6, 10, seed=1)), labels(6, 10)
    loss = open_loss("dist:tau=1e+1,ce=0.5+kl:tau=4,weight=0.3+dkd")
    expected = {}
    for text in ("dist:tau=10", "kl:tau=4,weight=0.3", "dkd"):
        expected |= open_loss(text).terms(student, teacher, targets)
    assert loss.terms(student, teacher, targets) == expected and len(expected) == 5
    assert loss.ce == 0.5 and loss.batch_tau == 10
    assert loss.requires == {"teacher", "logits", "label"}
    assert open_loss("kl+dist") == open_loss("kl:tau=4+dist:tau=1") != open_loss("dist+kl")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dist+dist:tau=4", "a sum with dist, which has it already"),
        ("ce+kl", None),
        ("kl+ce", "a sum with ce, which has it already"),
        ("dist+kl:ce=1", "give ce of the first alone"),
        ("dist+kll", "did you mean 'kl'"),
        ("dist+", "unknown loss"),
    ],
)
def test_sums_that_cannot_be_meant_are_refused(text: str, told: str | None) -> None:
    if told is None:
        assert open_loss(text).ce == 1
        return
    with pytest.raises(UsageError, match=told):
        open_loss(text)


def test_mse_is_the_mean_square_of_the_differences() -> None:
    student, teacher = logits(4, 7), logits(4, 7, seed=1)
    found = mse_loss(student, teacher)
    torch.testing.assert_close(found, torch.nn.functional.mse_loss(student, teacher))
    expected = 2 * (student - teacher) / student.numel()
    torch.testing.assert_close(grad(student, lambda z: mse_loss(z, teacher)), expected)
    assert mse_loss(student[:0], teacher[:0]) == 0
