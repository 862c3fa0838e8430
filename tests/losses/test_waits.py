"""A step's loss is computed on the GPU, which no host waits for."""

from collections.abc import Mapping

import pytest
import torch
from layouts import CLASSES, VIEWS, random_logits, row_codec_of
from torch import Tensor
from waits import GPU, on_gpu, without_waits

from kdcache.codecs.record_bytes import to_fields
from kdcache.losses import open_loss
from kdcache.positions import layout_of_sites
from kdcache.shapes import Labels
from kdcache.soft_targets import by_segment
from kdcache.tasks import open_task

OF_EVERY_TARGETS = ("dist:tau=4", "kl:tau=4", "mlkd:taus=[2,4]", "dist+kl", "ce")
OF_LOGITS = (
    *("dist:standardize=true", "dist:activation=sigmoid", "kl:activation=sigmoid"),
    *("dkd", "nkd", "mse"),
)
MAPS = (1, 4, 5)
"""Heads, height and width."""


def on_device(fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty_like(field, device=GPU) for name, field in fields.items()}


def require_on_gpu(terms: dict[str, Tensor], *names: str) -> None:
    assert set(names) <= set(terms)
    assert {term.device.type for term in terms.values()} == {"cuda"}


@pytest.mark.parametrize(
    ("loss", "spec"),
    [
        *((loss, spec) for loss in OF_EVERY_TARGETS for spec in ("topk:k=3", "lowrank:step=0.25")),
        *((loss, "full:dtype=float32") for loss in (*OF_EVERY_TARGETS, *OF_LOGITS)),
    ],
)
def test_no_loss_of_classes_waits_for_the_device(loss: str, spec: str) -> None:
    task = open_task("classification")
    codec = row_codec_of(spec)
    fields = to_fields(codec.encode(random_logits(VIEWS, CLASSES)), "cpu")
    with on_gpu():
        teacher = codec.from_fields(on_device(fields))
        student = torch.empty(VIEWS, CLASSES, device=GPU, requires_grad=True)
        classes = torch.empty(VIEWS, dtype=torch.int64, device=GPU)
        labels = Labels(classes, (classes, torch.empty(VIEWS, device=GPU)))
        with without_waits():
            terms = task.terms(open_loss(loss), student, teacher, labels, label_smoothing=0.1)
        require_on_gpu(terms, "task")


@pytest.mark.parametrize("loss", ["dist:tau=4", "kl:tau=4", "cwd", "ce"])
def test_no_loss_of_maps_waits_for_the_device(loss: str) -> None:
    task = open_task("segmentation")
    with on_gpu():
        student = torch.empty(VIEWS, *MAPS, CLASSES, device=GPU, requires_grad=True)
        teacher = by_segment(torch.empty_like(student), layout_of_sites(MAPS))
        labels = Labels(torch.empty(VIEWS, 16, 20, dtype=torch.uint8, device=GPU))
        with without_waits():
            terms = task.terms(open_loss(loss), student, teacher, labels, label_smoothing=0.1)
        require_on_gpu(terms, "task")
