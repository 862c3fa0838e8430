"""The units of an imported cache: labels as records, and probes of the views that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdcache.cache import Cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.parts import Absence, Probe
from kdcache.errors import CacheError
from kdcache.imports.crops import place_views
from kdcache.imports.protocol import Classes, CropLabels, Origin, Probabilities
from kdcache.models.vision_model import TeacherLogits
from kdcache.shapes import Logits, Records, Rows
from kdcache.sources import Source
from kdcache.sources.protocol import Listed
from kdcache.tasks import open_task
from kdcache.verify.views import make_probe, num_probes, num_traced
from kdcache.views import ViewDataset
from kdcache.views.stored_views import StoredViews

_ROWS_AT_ONCE = 4096
"""Whose logits of all classes are made together."""
LEAST_LOG = -200.0
"""The logarithm that stands for that of 0: at any temperature in use it has no weight."""


def logits_of(classes: Classes, probabilities: Probabilities, num_classes: int) -> Logits:
    """Return logits whose softmax gives some classes their probabilities, and all others an even
    share of what is left, float32 `[rows, classes]`.

    They are logarithms of probabilities; a 0 becomes `LEAST_LOG`, or where all others are 0 the
    same for each.

    Args:
        classes: `[rows, k]`.
        probabilities: of them, `[rows, k]`.
        num_classes: of a row.
    """
    heads = torch.from_numpy(probabilities).double()
    num_others = num_classes - heads.shape[1]
    rest = (1 - heads.sum(1, keepdim=True)).clamp_min(0) / max(num_others, 1)
    shares = rest.repeat(1, num_classes)
    shares.scatter_(1, torch.from_numpy(classes).long(), heads)
    return shares.log().clamp_min(LEAST_LOG).float()


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The labels of a unit's rows under one seed."""

    places: Rows
    """In the unit, of the rows that have labels."""
    classes: Classes
    probabilities: Probabilities


class UnitImporter:
    """Makes the units of a cache from the files of its samples."""

    def __init__(
        self,
        cache: Cache,
        source: Source,
        origin: Origin,
        *,
        views: StoredViews,
        crops: Sequence[int],
    ) -> None:
        """Prepare to make units.

        Args:
            cache: that they go into.
            source: of the samples.
            origin: their files.
            views: that the cache keeps.
            crops: which crop of a sample each seed is.
        """
        self._cache = cache
        self._source = source
        self._origin = origin
        self._views = views
        self._crops = crops
        size = cache.manifest.input_size
        self._dataset = ViewDataset(source, cache.recipe, cache.order, sizes=[size])
        self._task = open_task(cache.manifest.task)
        self._targets = None
        if isinstance(source, Listed):
            self._targets = source.known_targets()

    def write(self, unit: int, seeds: Sequence[int]) -> None:
        """Write a unit under some seeds, each file read once.

        Raises:
            CacheError: a file that cannot be read, or whose crops or flips are others than before;
                or a cache that cannot be written.
            SourceError: an image that cannot be read.
        """
        rows = self._cache.manifest.unit_range(unit)
        indices = self._cache.order[rows.start : rows.stop]
        labels_of = [self._labels(int(index)) for index in indices]
        for seed in seeds:
            reasons = self._reasons(indices, labels_of, seed)
            absent = [Absence(row=rows.start + place, reason=text) for place, text in reasons]
            batch = self._batch(labels_of, seed, [place for place, _ in reasons])
            leading = self._views.leading_samples(indices, seed)
            records, statistics = self._encoded(batch, leading)
            commit_unit(
                self._cache,
                seed,
                unit,
                records,
                absent=absent,
                probes=self._probes(seed, unit, rows.start + batch.places),
                statistics=statistics,
            )

    def _labels(self, index: int) -> CropLabels | None:
        """Return the labels of a sample, if they are of the crops that the cache keeps; None if
        there are none."""
        try:
            labels = self._origin.labels(index, max(self._crops) + 1)
        except FileNotFoundError:
            labels = None
        stored = {name: array[:, [index]] for name, array in self._views.arrays.items()}
        views = {name: np.zeros_like(array) for name, array in stored.items()}
        if labels is not None:
            place_views(labels, self._crops, views, 0)
        if arrays_digest(views) != arrays_digest(stored):
            raise CacheError(
                f"{self._origin.place(index)} has changed while it was imported; leave it as"
                " it is, and run the same command again"
            )
        return labels

    def _reasons(
        self, indices: Rows, labels_of: Sequence[CropLabels | None], seed: int
    ) -> list[tuple[int, str]]:
        """Return the places of a unit's rows that have no labels under a seed, and why."""
        crop = self._crops[seed]
        reasons: list[tuple[int, str]] = []
        for place, (index, labels) in enumerate(zip(indices.tolist(), labels_of, strict=True)):
            holder = self._origin.place(index)
            if labels is None:
                reasons.append((place, f"there is no {holder}"))
            elif not labels.has(crop):
                reasons.append((place, f"{holder} has no crop {crop}, counted from 0"))
        return reasons

    def _batch(
        self, labels_of: Sequence[CropLabels | None], seed: int, absent_places: Sequence[int]
    ) -> _Batch:
        """Return the labels of a unit's rows under a seed, but for those that have none."""
        places = np.setdiff1d(np.arange(len(labels_of)), absent_places)
        crop = self._crops[seed]
        classes: list[np.ndarray] = []
        probabilities: list[np.ndarray] = []
        for place in places:
            labels = labels_of[place]
            assert labels is not None, "it is not absent"
            classes.append(labels.classes[crop])
            probabilities.append(labels.probabilities[crop])
        return _Batch(
            places=places, classes=np.array(classes), probabilities=np.array(probabilities)
        )

    def _encoded(self, batch: _Batch, leading: Rows) -> tuple[Records, dict[str, float]]:
        """Return the records of a unit, zeros where there are no labels, and means over the
        others.

        Args:
            batch: the labels.
            leading: of each row the sample whose class counts as that of its view.
        """
        codec = self._cache.codec
        manifest = self._cache.manifest
        records = np.zeros(len(leading), codec.record_dtype)
        parts: list[tuple[dict[str, float], int]] = []
        for start in range(0, len(batch.places), _ROWS_AT_ONCE):
            piece = slice(start, start + _ROWS_AT_ONCE)
            places = batch.places[piece]
            logits = logits_of(batch.classes[piece], batch.probabilities[piece], manifest.classes)
            records[places] = codec.encode(logits)
            targets = self._targets_of(leading[places])
            means = self._task.statistics(TeacherLogits(logits), targets, manifest.layout)
            table = {name: float(value) for name, value in means.items()}
            parts.append((table, len(places)))
        return records, mean_statistics(parts)

    def _targets_of(self, indices: Rows) -> Any:
        """Return the classes of some samples; None where that takes reading them."""
        if self._targets is None:
            return None
        return torch.from_numpy(self._targets[indices].astype(np.int64))

    def _probes(self, seed: int, unit: int, rows: Rows) -> list[Probe]:
        """Return probes of the first of some rows, as they are rendered here."""
        manifest = self._cache.manifest
        num_traces = num_traced(manifest, seed, unit)
        count = max(num_traces, num_probes(manifest))
        probes: list[Probe] = []
        for row in rows[:count].tolist():
            batch = self._dataset.batch([(row, seed)])
            trace = None
            if len(probes) < num_traces:
                trace = self._dataset.trace(row, seed)
            probes.append(make_probe(row, batch.views[0][0], trace))
        return probes
