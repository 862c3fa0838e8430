"""Dumps, loaders and scores of a program that has set torch's default dtype or device, as by
`torch.set_default_device("cuda")`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from box_caches import DATA as BOXES
from box_caches import box_cache
from caches import contents
from runs import DIGITS
from torch import Tensor, nn

import kdcache
from kdcache.views import load_recipe

DATA = f"{DIGITS},length=300"
HERE: dict[str, Any] = {"num_workers": 0, "device": "cpu"}


@contextmanager
def other_defaults(name: str) -> Iterator[None]:
    """Set another default: a device on which nothing is computed, or float64."""
    if name == "device":
        with torch.device("meta"):
            yield
        return
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def records(folder: Path, teacher: nn.Module, codec: str) -> dict[str, bytes]:
    """Return the shards that a dump writes."""
    kdcache.dump_teacher(
        str(folder),
        data=DATA,
        teacher=teacher,
        recipe="digits",
        codec=codec,
        mean=0.5,
        std=0.25,
        **HERE,
    )
    return {name: data for name, (data, _) in contents(folder).items() if "/c/" in name}


@pytest.mark.parametrize("name", ["device", "dtype"])
@pytest.mark.parametrize("codec", ["lowrank:step=1", "cosine", "topk:k=4", "full:dtype=uint8"])
def test_a_dump_writes_the_same(tmp_path: Path, teacher: nn.Module, codec: str, name: str) -> None:
    found = records(tmp_path / "plain", teacher, codec)
    with other_defaults(name):
        again = records(tmp_path / "other", teacher, codec)
    assert found == again and found


@pytest.mark.parametrize("name", ["device", "dtype"])
def test_scores_are_the_same(teacher: nn.Module, name: str) -> None:
    def scores() -> dict[str, Any]:
        recipe = load_recipe("eval").with_mode("L")
        return kdcache.evaluate(teacher, DATA, recipe=recipe, size=8, mean=0.5, std=0.25, **HERE)

    found = scores()
    with other_defaults(name):
        assert scores() == found


@pytest.mark.parametrize("name", ["device", "dtype"])
def test_boxes_and_their_soft_targets_are_the_same(
    tmp_path: Path, box_recipe: str, name: str
) -> None:
    box_cache(tmp_path / "cache", box_recipe)

    def first() -> tuple[Tensor, list[Tensor], list[Tensor]]:
        loader = kdcache.DistillationLoader(
            tmp_path / "cache", data=BOXES, batch_size=8, mean=0.5, std=0.25, **HERE
        )
        batch = next(iter(loader))
        boxes = [target["boxes"] for target in batch.targets]
        return batch.images, boxes, [rows.probs(1.0) for rows in batch.teacher.segments]

    images, boxes, shares = first()
    with other_defaults(name):
        images_again, boxes_again, shares_again = first()
    assert torch.equal(images, images_again)
    for own, other in zip(boxes + shares, boxes_again + shares_again, strict=True):
        assert torch.equal(own, other)
