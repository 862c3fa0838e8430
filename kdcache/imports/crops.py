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
from kdcache.views.stored_arrays import Arrays, are_stored, bytes_per_view
from kdcache.views.stored_views import StoredViews


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
    most_crops = None
    if crops is not None:
        most_crops = max(crops) + 1
    gathering: _Gathering | None = None
    with progress("read", num_samples, "samples") as bar:
        for index in range(num_samples):
            try:
                labels = origin.labels(index, most_crops)
            except FileNotFoundError:
                bar.advance(1)
                continue
            if gathering is None:
                gathering = _Gathering(labels, num_samples, crops)
            gathering.add(index, labels, origin.place(index))
            bar.advance(1)
    if gathering is None:
        raise CacheError(
            f"there are no labels of any of {num_samples} samples; those of the first would be"
            f" {origin.place(0)}: give the folder that their program wrote"
        )
    return gathering.done()


def crops_of(labels: CropLabels, crops: Sequence[int]) -> list[int]:
    """Return the seeds of those of `crops` that there are."""
    return [seed for seed, crop in enumerate(crops) if labels.has(crop)]


def place_views(labels: CropLabels, crops: Sequence[int], arrays: Arrays, index: int) -> None:
    """Write what a file says of a sample's views into the arrays of all samples.

    Args:
        labels: of the file.
        crops: which crop each seed is.
        arrays: `[seeds, samples, ...]`.
        index: the sample.
    """
    seeds = crops_of(labels, crops)
    own_crops = [crops[seed] for seed in seeds]
    for name, array in arrays.items():
        array[seeds, index] = labels.views[name][own_crops]


class _Gathering:
    """Crops in the making, laid out by what the first file holds."""

    def __init__(self, first: CropLabels, num_samples: int, crops: Sequence[int] | None) -> None:
        if crops is None:
            crops = range(first.num_crops)
        self._crops = list(crops)
        self._num_labels = first.classes.shape[1]
        num_seeds = len(self._crops)
        view_bytes = bytes_per_view(first.views, num_axes=1)
        size = view_bytes * num_seeds * num_samples
        if size > MOST_VIEWS:
            most_seeds = MOST_VIEWS // (view_bytes * num_samples)
            raise UsageError(
                f"what is stored of {num_seeds} crops of {num_samples} samples takes {size} bytes;"
                f" a cache keeps {MOST_VIEWS}: give --crops 0:{most_seeds}, or fewer"
            )
        self._arrays: dict[str, np.ndarray] = {}
        for name, array in first.views.items():
            shape = (num_seeds, num_samples, *array.shape[1:])
            self._arrays[name] = np.zeros(shape, array.dtype)

    def add(self, index: int, labels: CropLabels, place: str) -> None:
        """Take the crops of a sample."""
        num_labels = labels.classes.shape[1]
        if num_labels != self._num_labels:
            raise CacheError(
                f"{place} has {num_labels} labels for each crop, and those before it"
                f" {self._num_labels}; import files of one kind"
            )
        place_views(labels, self._crops, self._arrays, index)

    def done(self) -> GatheredCrops:
        """Return all that were taken."""
        is_stored = are_stored(self._arrays)
        for seed, crop in enumerate(self._crops):
            if not is_stored[seed].any():
                raise UsageError(f"no file has a crop {crop}, counted from 0; give fewer --crops")
        views = StoredViews.from_arrays(self._arrays, arrays_digest(self._arrays))
        return GatheredCrops(crops=self._crops, num_labels=self._num_labels, views=views)
