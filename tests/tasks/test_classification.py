"""Scores and statistics of class logits, against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.shapes import Labels
from kdcache.tasks.classification import Score, logit_statistics, task_loss


def example(rows: int = 50, classes: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, classes, generator=generator) * 2, torch.randint(
        0, classes, (rows,), generator=generator
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_task_loss_is_smoothed_cross_entropy_in_float32(smoothing: float) -> None:
    logits, targets = example()
    log_p = torch.log_softmax(logits.double(), 1)
    own = log_p[torch.arange(50), targets]
    expected = -((1 - smoothing) * own + smoothing * log_p.mean(1)).mean()
    found = task_loss(logits, Labels(targets), label_smoothing=smoothing)
    assert found.dtype == torch.float32 and float(found) == pytest.approx(float(expected), rel=1e-5)
    half = task_loss(logits.half(), Labels(targets), label_smoothing=smoothing)
    assert half.dtype == torch.float32 and torch.equal(
        half, task_loss(logits.half().float(), Labels(targets), label_smoothing=smoothing)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_a_soft_target(smoothing: float) -> None:
    logits, first = example()
    second, share = first.roll(7), torch.linspace(0, 1, 50)
    target = share[:, None] * torch.eye(12)[first] + (1 - share[:, None]) * torch.eye(12)[second]
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    found = task_loss(logits, Labels(first, (second, share)), label_smoothing=smoothing)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert (
        Labels(first, (second, share)).leading.tolist()
        == torch.where(share >= 0.5, first, second).tolist()
    )


@pytest.mark.parametrize("sizes", [[50], [1, 7, 42]])
def test_a_score_does_not_depend_on_the_batches(sizes: list[int]) -> None:
    logits, targets = example()
    score = Score()
    for part, labels in zip(logits.split(sizes), targets.split(sizes), strict=True):
        score.add(part, Labels(labels))
    rank = (-logits.numpy()).argsort(1)
    hits = rank == targets.numpy()[:, None]
    result = score.result()
    assert result["top1"] == pytest.approx(100 * hits[:, 0].mean())
    assert result["top5"] == pytest.approx(100 * hits[:, :5].any(1).mean())
    assert result["eval_loss"] == pytest.approx(
        float(task_loss(logits, Labels(targets), label_smoothing=0.0)), rel=1e-5
    )


def test_top5_of_fewer_classes_is_all() -> None:
    logits, _ = example(classes=3)
    score = Score()
    score.add(logits, Labels(torch.zeros(50, dtype=torch.int64)))
    assert score.result()["top5"] == 100.0


def test_statistics_are_means_over_rows() -> None:
    logits, targets = example()
    found = logit_statistics(logits, targets)
    exact = logits.double().numpy()
    probabilities = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    assert found["mean"] == pytest.approx(exact.mean(), abs=1e-6)
    assert found["std"] == pytest.approx(exact.std(1).mean(), rel=1e-5)
    assert found["confidence"] == pytest.approx(probabilities.max(1).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(100 * (exact.argmax(1) == targets.numpy()).mean())
    one = logit_statistics(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    assert one == {"mean": 0.0, "std": 0.0, "confidence": 1.0, "accuracy": 100.0}
