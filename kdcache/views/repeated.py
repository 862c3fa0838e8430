"""Batches of any size from a few views, to see what a size takes before views are rendered."""

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import UnreadableSampleError
from kdcache.shapes import Rows
from kdcache.views.dataset import Batch, ViewDataset

_FEW = 8


def few_views(dataset: ViewDataset, rows: Rows) -> Batch:
    """Return a batch of the first few of some rows that can be read, all under seed 0.

    Args:
        dataset: of the views, which is to skip what cannot be read.
        rows: that are to be used, at least one.

    Raises:
        UnreadableSampleError: none of the first few can be read.
    """
    batch = dataset.batch([(int(row), 0) for row in rows[:_FEW]])
    if not len(batch.present_places):
        _, reason = batch.absent[0]
        raise UnreadableSampleError(reason)
    return batch


def repeated_batch(batch: Batch, size: int) -> Batch:
    """Return a batch of `size` views: the readable ones of `batch`, again and again."""
    places = torch.from_numpy(np.resize(batch.present_places, size))

    def pick(tensor: Tensor) -> Tensor:
        return tensor[places]

    views = tuple(map(pick, batch.views))
    return Batch(views, batch.labels.to(pick), pick(batch.rows), pick(batch.seeds), ())
