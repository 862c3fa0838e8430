"""Notes about labels that cannot be meant: looked at where they are read anyway, before anything is
trained on them."""

import numpy as np
import torch

from kdcache.runtime.console import say
from kdcache.shapes import IGNORED, Rows
from kdcache.sources import Source
from kdcache.targets import task_of
from kdcache.tasks import open_task
from kdcache.views import Batch


class SeenLabels:
    """The labels of a source that were seen so far, until they were judged."""

    def __init__(self, source: Source) -> None:
        """Begin with none; where the source knows all without reading a sample, these are judged at
        once."""
        self._source = source
        self._task = open_task(task_of(source))
        self._labels: list[Rows] = []
        self._is_open = True
        known_targets = getattr(source, "known_targets", None)
        targets = None
        if known_targets is not None:
            targets = known_targets()
        if targets is not None:
            self._labels = [targets]
            self.tell()

    def add(self, batch: Batch) -> None:
        """Take the labels of a batch, but for those of absent views."""
        if not self._is_open:
            return
        positions = np.arange(len(batch.rows))
        absent_positions = [position for position, _ in batch.absent]
        labels = batch.labels.first[np.setdiff1d(positions, absent_positions)]
        if labels.ndim == 1:
            self._labels.append(labels.numpy())
        else:
            self._labels += [_distinct(mask) for mask in labels]

    def tell(self) -> None:
        """Say what cannot be meant of the labels so far; later ones are not looked at."""
        labels = self._labels
        self._labels = []
        if not self._is_open or not labels:
            return
        self._is_open = False
        names = getattr(self._source, "class_names", None)
        for note in self._task.label_notes(labels, self._source.classes, names):
            say(f"note: data {self._source.spec}: {note}")


def _distinct(mask: torch.Tensor) -> Rows:
    """Return the classes in a mask: those of all masks of a unit take little memory."""
    classes = mask[mask >= 0]  # past a view's own objects there is none
    counts = torch.bincount(classes, minlength=IGNORED + 1)
    distinct: Rows = counts.nonzero().flatten().numpy()
    return distinct
