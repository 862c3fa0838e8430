"""An evaluation counts its batches on the GPU, which no host waits for until the result is asked."""

import pytest
import torch
from waits import GPU, on_gpu, without_waits

from kdcache.shapes import Labels
from kdcache.tasks import open_task

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "logits", "targets", "dtype"),
    [
        ("classification", (4, 3), (4,), torch.int64),
        ("segmentation", (2, 1, 4, 4, 3), (2, 8, 8), torch.uint8),
    ],
)
def test_no_score_waits_for_the_device(
    task: str, logits: tuple[int, ...], targets: tuple[int, ...], dtype: torch.dtype
) -> None:
    with on_gpu():
        score = open_task(task).score(NAMES, GPU)
        labels = Labels(torch.empty(targets, dtype=dtype, device=GPU))
        with without_waits():
            score.add(torch.empty(logits, device=GPU), labels)
