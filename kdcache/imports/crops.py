"""The crops of all samples, gathered from their files before a cache is begun: its recipe names
them by their digest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.cache.arrays import arrays_digest
from kdcache.cache.documents.limits import MOST_VIEWS
from kdcache.errors import CacheError, UsageError
from kdcache.imports.protocol import CropLabels, Origin
from kdcache.runtime.console import progress
from kdcache.views.stored_views import BYTES_PER_VIEW, StoredViews, views_arrays


@dataclass(frozen=True, kw_only=True)
class GatheredCrops:
    """What the files of all samples have in common, and their crops."""

    crops: list[int]
    """Which crop of each sample a seed is."""
    num_labels: int
    """Of each crop."""
    views: StoredViews


def gathered_crops(origin: Origin, num_samples: int, crops: Sequence[int] | None) -> GatheredCrops:
    """Return the crops of all samples.

    Args:
        origin: the files.
        num_samples: of the data.
        crops: which crops of each; None for as many as the first file has.

    Raises:
        CacheError: there is no file of any sample, or one that cannot be read.
        UsageError: crops that no file has, or more than a cache may keep.
    """
    gathering: _Gathering | None = None
    with progress("read", num_samples, "samples") as bar:
        for index in range(num_samples):
            try:
                labels = origin.labels(index)
            except FileNotFoundError:
                bar.advance(1)
                continue
            if gathering is None:
                gathering = _Gathering(labels, num_samples, crops)
            gathering.add(index, labels, origin.file(index))
            bar.advance(1)
    if gathering is None:
        raise CacheError(
            f"there is no file of labels of any of {num_samples} samples; that of the first would"
            f" be {origin.file(0)}: give the folder that holds the folders of classes"
        )
    return gathering.done()


def crops_of(labels: CropLabels, crops: Sequence[int]) -> list[int]:
    """Return the seeds of those of `crops` that a file has."""
    num_crops = len(labels.flips)
    return [seed for seed, crop in enumerate(crops) if crop < num_crops]


class _Gathering:
    """Crops in the making, laid out by what the first file holds."""

    def __init__(self, first: CropLabels, num_samples: int, crops: Sequence[int] | None) -> None:
        if crops is None:
            crops = range(len(first.flips))
        self._crops = list(crops)
        self._num_labels = first.classes.shape[1]
        num_seeds = len(self._crops)
        size = BYTES_PER_VIEW * num_seeds * num_samples
        if size > MOST_VIEWS:
            most_seeds = MOST_VIEWS // (BYTES_PER_VIEW * num_samples)
            raise UsageError(
                f"the boxes of {num_seeds} crops of {num_samples} samples take {size} bytes; a"
                f" cache keeps {MOST_VIEWS}: give --crops 0:{most_seeds}, or fewer"
            )
        self._boxes = np.zeros((num_seeds, num_samples, 4), np.float32)
        self._flips = np.zeros((num_seeds, num_samples), np.uint8)

    def add(self, index: int, labels: CropLabels, file: str) -> None:
        """Take the crops of a sample."""
        num_labels = labels.classes.shape[1]
        if num_labels != self._num_labels:
            raise CacheError(
                f"file {file} has {num_labels} labels for each crop, and those before it"
                f" {self._num_labels}; import files of one kind"
            )
        seeds = crops_of(labels, self._crops)
        crops = [self._crops[seed] for seed in seeds]
        self._boxes[seeds, index] = labels.boxes[crops]
        self._flips[seeds, index] = labels.flips[crops]

    def done(self) -> GatheredCrops:
        """Return all that were taken."""
        for seed, crop in enumerate(self._crops):
            if not self._boxes[seed].any():
                raise UsageError(f"no file has a crop {crop}, counted from 0; give fewer --crops")
        arrays = views_arrays(self._boxes, self._flips)
        views = StoredViews.from_arrays(arrays, arrays_digest(arrays))
        return GatheredCrops(crops=self._crops, num_labels=self._num_labels, views=views)
