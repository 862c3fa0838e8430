"""The boxes that a detector finds in images, a line each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.models.detector_output import DetectorOutput
from kdcache.runtime.files import write_file
from kdcache.runtime.tables import Column, write_table
from kdcache.shapes import Objects
from kdcache.tasks.coco_results import coco_results
from kdcache.tasks.prediction_forms import RESULTS
from kdcache.tasks.predictions import PredictionSettings
from kdcache.views import Batch

_SIDES = ("x0", "y0", "x1", "y1")
_Table = np.ndarray
"""Boxes, `[boxes, 6]`: class, score, and the sides in pixels of the image."""


class BoxPredictions:
    """The boxes of each image, in pixels of the image, with class and score, in a table or in
    COCO's results, as the name of the file ends."""

    def __init__(self, settings: PredictionSettings) -> None:
        """Begin with no image."""
        self._settings = settings
        self._images: list[int] = []
        self._boxes: list[_Table] = [np.empty((0, 6))]

    def read(self, output: DetectorOutput, batch: Batch) -> list[Tensor]:
        """Return the boxes of each view, `[boxes, 6]`: class, score, and sides in pixels of the
        view."""
        tables = []
        for boxes, scores, classes in output.detections():
            columns = [classes[:, None].double(), scores[:, None].double(), boxes.double()]
            tables.append(torch.cat(columns, dim=1))
        return tables

    def add(self, fetched: Sequence[Tensor], batch: Batch, keys: Mapping[int, str]) -> None:
        """Take a batch; of each image the surest box comes first."""
        objects = batch.labels.objects
        assert objects is not None, "images are opened with where they are in their views"
        for place in keys:
            table = fetched[place].numpy()
            is_told = np.isfinite(table).all(1)
            if self._settings.threshold is not None:
                is_told &= table[:, 1] >= self._settings.threshold
            table = table[is_told]
            table = table[np.argsort(-table[:, 1], kind="stable")]
            table[:, 2:] = _in_image(table[:, 2:], objects, place)
            self._boxes.append(table)
            self._images += [int(batch.rows[place])] * len(table)

    def write(self) -> dict[str, Any]:
        """Write the file, and return how many `boxes` there are.

        Raises:
            KdcacheError: the file cannot be written.
        """
        table = np.concatenate(self._boxes)
        if self._settings.out.suffix.lower() == RESULTS:
            results = coco_results(self._images, table, self._settings.ids)
            write_file(self._settings.out, results)
        else:
            write_table(self._settings.out, self._columns(table))
        return {"boxes": len(table)}

    def _columns(self, table: _Table) -> dict[str, Column]:
        keys = [self._settings.keys[image] for image in self._images]
        classes = table[:, 0].astype(np.int64)
        names = [self._settings.class_names[number] for number in classes.tolist()]
        columns: dict[str, Column] = {"key": keys, "class": classes, "name": names}
        columns["score"] = table[:, 1].astype(np.float32)
        for place, side in enumerate(_SIDES, start=2):
            columns[side] = table[:, place].astype(np.float32)
        return columns


def _in_image(boxes: np.ndarray, objects: Objects, view: int) -> np.ndarray:
    """Return boxes of a view, `[boxes, 4]`, in pixels of its image, and within it."""
    frame = objects.frames[view].double().numpy()
    height, width = objects.image_sizes[view].tolist()
    size = np.array([width, height, width, height])
    starts = np.tile(frame[:2], 2)
    spans = np.tile(frame[2:] - frame[:2], 2)
    moved: np.ndarray = (boxes - starts) * (size / spans)
    return moved.clip(0, size)
