"""Batches of the same rows under several seeds, for which each image is decoded once.

A batch is of one seed, so that a model sees the same batches whatever else is rendered. So a loader
worker renders a part of the rows under all of the seeds, as many views as a batch has, and holds
one image at a time. The main process puts the parts together.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcache.shapes import Labels, Objects
from kdcache.views.dataset import Batch, Request, ViewDataset
from kdcache.views.loading import ViewLoader


class RowsUnderSeeds(NamedTuple):
    """What is asked for: a batch of these rows under each of these seeds."""

    rows: Sequence[int]
    seeds: Sequence[int]


class ManySeedLoader:
    """Iterates over batches, for each request one under each of its seeds, in the order of the
    seeds."""

    def __init__(
        self,
        dataset: ViewDataset,
        requests: Iterable[RowsUnderSeeds],
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        """Prepare to iterate, once.

        Args:
            dataset: of the views.
            requests: read ahead, as far as the workers are.
            workers: loader processes.
            pin_memory: whether batches come in pinned memory.
        """
        self._requests = requests
        self._pins = pin_memory
        self._handed_out: deque[tuple[int, int]] = deque()
        """Of each request that is on its way, how many parts and seeds it has."""
        self._loader = ViewLoader(dataset, self._parts(), workers=workers, pin_memory=pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches.

        Raises:
            KdcacheError: what a view raised, as the same class, or a worker that was killed.
        """
        parts: list[Batch] = []
        for part in self._loader:
            parts.append(part)
            num_parts, num_seeds = self._handed_out[0]
            if len(parts) < num_parts:
                continue
            self._handed_out.popleft()
            for place in range(num_seeds):
                yield _batch_of_seed(parts, place, num_seeds, pins=self._pins)
            parts = []

    def _parts(self) -> Iterator[Request]:
        """Yield the views of each part, those of a row side by side."""
        for rows, seeds in self._requests:
            num_parts = min(len(seeds), len(rows))
            self._handed_out.append((num_parts, len(seeds)))
            for part in np.array_split(np.array(rows), num_parts):
                yield [(row, seed) for row in part.tolist() for seed in seeds]


def _batch_of_seed(parts: Sequence[Batch], place: int, num_seeds: int, *, pins: bool) -> Batch:
    """Return the views of one of the seeds, by its place among them."""
    if num_seeds == 1:
        return parts[0]
    views = []
    for of_size in zip(*(part.views for part in parts), strict=True):
        views.append(_joined([tensor[place::num_seeds] for tensor in of_size], pins=pins))
    labels = []
    absent = []
    start = 0
    for part in parts:
        labels.append(part.labels.to(lambda tensor: tensor[place::num_seeds]))
        for position, reason in part.absent:
            if position % num_seeds == place:
                absent.append((start + position // num_seeds, reason))
        start += len(part.rows) // num_seeds
    return Batch(
        views=tuple(views),
        labels=_joined_labels(labels, pins=pins),
        rows=torch.cat([part.rows[place::num_seeds] for part in parts]),
        seeds=torch.cat([part.seeds[place::num_seeds] for part in parts]),
        absent=tuple(absent),
    )


def _joined(tensors: Sequence[Tensor], *, pins: bool) -> Tensor:
    if not pins:
        return torch.cat([*tensors])
    length = sum(map(len, tensors))
    joined = torch.empty((length, *tensors[0].shape[1:]), dtype=tensors[0].dtype, pin_memory=True)
    return torch.cat([*tensors], out=joined)


def _joined_labels(labels: Sequence[Labels], *, pins: bool) -> Labels:
    """Return the labels of all parts; of objects with as many places as the view with most has."""
    assert all(part.mixed is None for part in labels), "views that are mixed come seed by seed"
    objects = [part.objects for part in labels if part.objects is not None]
    if not objects:
        return Labels(_joined([part.first for part in labels], pins=pins))
    most = max(int((part.first >= 0).sum(1).max()) for part in labels)
    classes = [_with_places(part.first, most, -1) for part in labels]
    joined = Objects(
        _joined([_with_places(part.boxes, most, 0) for part in objects], pins=pins),
        _joined([_with_places(part.areas, most, 0) for part in objects], pins=pins),
        _joined([_with_places(part.is_crowd, most, 0) for part in objects], pins=pins),
        _joined([part.frames for part in objects], pins=pins),
        _joined([part.image_sizes for part in objects], pins=pins),
    )
    return Labels(_joined(classes, pins=pins), objects=joined)


def _with_places(tensor: Tensor, most: int, fill: int) -> Tensor:
    """Return a tensor of the objects of views with `most` places for each view."""
    padded = tensor.new_full((len(tensor), most, *tensor.shape[2:]), fill)
    count = min(most, tensor.shape[1])
    padded[:, :count] = tensor[:, :count]
    return padded
