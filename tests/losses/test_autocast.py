"""Losses in a loop whose whole step runs in an autocast."""

import pytest
import torch
from losses.references import labels, logits
from waits import GPU, HalfError, in_autocast, on_gpu

from kdcache.losses import Loss, open_loss
from kdcache.losses.registry import LOSSES
from kdcache.soft_targets import DenseTargets

SPECS = [
    *sorted(set(LOSSES) - {"cwd"}),
    *("dist:activation=sigmoid", "kl:activation=sigmoid", "kl:standardize=true"),
]


def summed(loss: Loss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    targets = labels(8, 10).to(student.device)
    terms = loss.terms(student, DenseTargets(teacher), targets)
    return torch.stack([student.float().sum() * 0, *terms.values()]).sum()


@pytest.mark.parametrize("spec", SPECS)
def test_no_loss_computes_in_half_precision_on_a_gpu(spec: str) -> None:
    """CUDA multiplies matrices in it there, and refuses binary cross-entropy."""
    with on_gpu(), in_autocast():
        student = torch.empty(8, 10, device=GPU)
        assert summed(open_loss(spec), student, torch.empty_like(student)).dtype == torch.float32


@pytest.mark.parametrize("spec", SPECS)
def test_an_autocast_changes_no_loss(spec: str) -> None:
    student = logits(8, 10)
    teacher = logits(8, 10, seed=1)
    expected = summed(open_loss(spec), student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = summed(open_loss(spec), student, teacher)
    assert torch.equal(found, expected)


def test_half_precision_would_be_found() -> None:
    with on_gpu(), in_autocast():
        matrix = torch.empty(4, 4, device=GPU)
        with pytest.raises(HalfError):
            matrix @ matrix
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            torch.nn.functional.binary_cross_entropy(matrix, matrix)
