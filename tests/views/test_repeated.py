"""A few views as a batch of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import DIGITS

from kdcache.errors import UnreadableSampleError
from kdcache.sources import open_source
from kdcache.views import ViewDataset, load_recipe
from kdcache.views.repeated import few_views, repeated_batch


def dataset_of(spec: str, recipe: str = "digits") -> ViewDataset:
    source = open_source(spec)
    order = np.arange(len(source))[::-1].copy()
    return ViewDataset(source, load_recipe(recipe), order, sizes=[8], skip_unreadable=True)


def test_a_few_views_are_repeated_with_their_labels() -> None:
    dataset = dataset_of(DIGITS)
    few = few_views(dataset, np.array([5, 3, 9]))
    assert few.rows.tolist() == [5, 3, 9]
    batch = repeated_batch(few, 7)
    assert batch.rows.tolist() == [5, 3, 9, 5, 3, 9, 5]
    assert batch.views[0].shape == (7, 1, 8, 8)
    assert torch.equal(batch.views[0][4], few.views[0][1])
    assert batch.labels.first.tolist() == [few.labels.first[place] for place in (0, 1, 2) * 2] + [
        few.labels.first[0]
    ]
    assert repeated_batch(few, 2).rows.tolist() == [5, 3]


def test_labels_of_mixed_views_keep_their_shares() -> None:
    few = few_views(dataset_of(DIGITS, "imagenet-b3"), np.arange(4))
    batch = repeated_batch(few, 6)
    assert few.labels.mixed is not None and batch.labels.mixed is not None
    second, share = batch.labels.mixed
    assert torch.equal(second[4:], few.labels.mixed[0][:2])
    assert torch.equal(share[4:], few.labels.mixed[1][:2])


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "class" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    (tmp_path / "class" / "1.png").write_bytes(b"not an image")
    dataset = dataset_of(f"imagefolder:{tmp_path}")
    batch = repeated_batch(few_views(dataset, np.arange(3)), 4)
    assert (batch.rows.tolist(), batch.absent) == ([0, 2, 0, 2], ())
    with pytest.raises(UnreadableSampleError, match=r"1\.png"):
        few_views(dataset, np.array([1]))
