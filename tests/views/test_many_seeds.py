"""Views of the same rows under several seeds: each image is decoded once, and every batch is what
it is alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import Drawing, Objects, Photographs, Scenes
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import UnreadableSampleError
from kdcache.shapes import Labels
from kdcache.sources import DatasetSource, MaskSource, Sample, Source
from kdcache.views import Batch, ManySeedLoader, RowsUnderSeeds, ViewDataset, load_recipe

SEEDS = [3, 0, 2**32 - 1]


class Counted(Photographs):
    """Counts how often each sample is read."""

    def __init__(self) -> None:
        self.num_read: Counter[int] = Counter()

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        self.num_read[index] += 1
        return super().__getitem__(index)


class CountedDrawing(Drawing, Counted):
    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        self.num_read[index] += 1
        return super().__getitem__(index)


class Gaps:
    """A source whose sample 1 cannot be read."""

    spec, classes, fingerprint = "gaps", 3, "0"

    def __len__(self) -> int:
        return 3

    def key(self, index: int) -> str:
        return str(index)

    def sample(self, index: int) -> Sample:
        if index == 1:
            raise UnreadableSampleError("sample 1 is broken")
        return Sample(Photographs()[index][0], index)


def dataset_of(source: Source, name: str = "imagenet-b1") -> ViewDataset:
    recipe = load_recipe(name)
    return ViewDataset(
        source, recipe, np.array([2, 0, 1]), sizes=[(24, 32), 16], skip_unreadable=True
    )


def tensors(labels: Labels) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    labels.to(lambda tensor: found.append(tensor) or tensor)
    return found


def assert_same(batch: Batch, expected: Batch) -> None:
    for views, expected_views in zip(batch.views, expected.views, strict=True):
        assert torch.equal(views, expected_views)
    for one, other in zip(tensors(batch.labels), tensors(expected.labels), strict=True):
        assert torch.equal(one, other) or one.isnan().all()
    assert torch.equal(batch.rows, expected.rows) and torch.equal(batch.seeds, expected.seeds)
    assert batch.absent == expected.absent


@pytest.mark.parametrize(
    ("source", "recipe"),
    [
        (DatasetSource(Photographs(), Spec("photographs")), "imagenet-b1"),
        (DatasetSource(Drawing(), Spec("drawing")), "imagenet-b2"),
        (DatasetSource(Objects(), Spec("objects")), "coco-ssd"),
        (MaskSource(Scenes(), Spec("scenes"), classes=3), "voc"),
        (Gaps(), "imagenet-b1"),
    ],
    ids=["labels", "drawn samples", "boxes", "masks", "absent"],
)
def test_a_batch_under_each_seed_is_as_it_is_alone(source: Source, recipe: str) -> None:
    dataset = dataset_of(source, recipe)
    requests = [
        RowsUnderSeeds([0, 2, 1], SEEDS),
        RowsUnderSeeds([1], SEEDS),
        RowsUnderSeeds([2, 0], [7]),
    ]
    batches = [*ManySeedLoader(dataset, iter(requests), workers=0, pin_memory=False)]
    alone = []
    for rows, seeds in requests:
        for seed in seeds:
            alone.append(dataset.batch([(row, seed) for row in rows]))
    assert len(batches) == len(alone)
    for batch, expected in zip(batches, alone, strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize(("data", "times"), [(Counted(), 1), (CountedDrawing(), 3)])
def test_an_image_is_decoded_once_unless_it_is_drawn(data: Counted, times: int) -> None:
    dataset = dataset_of(DatasetSource(data, Spec("counted")))
    data.num_read.clear()
    loader = ManySeedLoader(
        dataset, iter([RowsUnderSeeds([0, 1, 2], SEEDS)]), workers=0, pin_memory=False
    )
    assert len([*loader]) == len(SEEDS)
    assert data.num_read == {0: times, 1: times, 2: times}


def test_repeats_of_a_training_are_decoded_once() -> None:
    data = Counted()
    dataset = dataset_of(DatasetSource(data, Spec("counted")))
    data.num_read.clear()
    dataset.batch([(row, seed) for row in (1, 0) for seed in SEEDS])
    assert data.num_read == {2: 1, 0: 1}
