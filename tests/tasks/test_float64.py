"""Scores of what a device computes that has no float64: they are added up on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdcache.runtime.float64 import float64_device, in_float64
from kdcache.shapes import Labels
from kdcache.tasks.classification import Score
from kdcache.tasks.segmentation import MapScore

APPLES = "mps"
"""A device that is not there: whatever is made on it is an error."""
NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("score_on", "shape"),
    [
        (Score, (8,)),
        (lambda device: MapScore(NAMES, device), (8, 4, 4)),
    ],
    ids=["classes", "maps"],
)
def test_scores_of_such_a_device_are_those_of_the_cpu(
    score_on: Callable[[str], Any], shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator)
    if len(shape) == 3:
        logits = torch.randn(8, 1, 4, 4, 3, generator=generator)
    classes = torch.randint(3, shape, generator=generator)
    labels = Labels(classes.to(torch.uint8) if len(shape) == 3 else classes)
    results = []
    for device in ("cpu", APPLES):
        score = score_on(device)
        score.add(logits, labels)
        results.append(score.result())
    assert results[0] == results[1] and results[0]


def test_float64_stays_where_it_is_had() -> None:
    assert float64_device(APPLES).type == "cpu" and float64_device("cuda:1").index == 1
    values = in_float64(torch.ones(2, device="meta"))
    assert values.dtype == torch.float64 and values.device.type == "meta"
