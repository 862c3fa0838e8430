"""The boxes that a detector finds in images, a line each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.models.detector_output import DetectorOutput
from kdcache.runtime.console import say
from kdcache.runtime.files import write_file
from kdcache.runtime.float64 import in_float64
from kdcache.runtime.tables import Column, write_table
from kdcache.shapes import Objects
from kdcache.tasks.boxes_in_images import boxes_in_images
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
        self._highest: float | None = None
        """Score that the model gives a box, told or not."""

    def read(self, output: DetectorOutput, batch: Batch) -> list[Tensor]:
        """Return the boxes of each view, `[boxes, 6]`: class, score, and sides in pixels of the
        view."""
        objects = batch.labels.objects
        assert objects is not None, "images are opened with where they are in their views"
        tables = []
        for boxes, scores, classes in boxes_in_images(output.detections(), objects):
            columns = [classes[:, None], scores[:, None], boxes]
            tables.append(torch.cat([in_float64(column) for column in columns], dim=1))
        return tables

    def add(self, fetched: Sequence[Tensor], batch: Batch, keys: Mapping[int, str]) -> None:
        """Take a batch; of each image the surest box comes first."""
        objects = batch.labels.objects
        assert objects is not None, "images are opened with where they are in their views"
        for place in keys:
            table = self._told(fetched[place].numpy())
            table = table[np.argsort(-table[:, 1], kind="stable")]
            table[:, 2:] = _in_image(table[:, 2:], objects, place)
            self._boxes.append(table)
            self._images += [int(batch.rows[place])] * len(table)

    def _told(self, table: _Table) -> _Table:
        """Return the boxes that reach the threshold, if there is one."""
        scores = table[:, 1]
        if len(scores):
            self._highest = max(self._highest or 0.0, float(scores.max()))
        if self._settings.threshold is None:
            return table
        return table[scores >= self._settings.threshold]

    def write(self) -> dict[str, Any]:
        """Write the file, and return how many `boxes` there are; that there is none is told.

        Raises:
            KdcacheError: the file cannot be written.
        """
        table = np.concatenate(self._boxes)
        if self._settings.out.suffix.lower() == RESULTS:
            results = coco_results(self._images, table, self._settings.ids)
            write_file(self._settings.out, results)
        else:
            write_table(self._settings.out, self._columns(table))
        if not len(table):
            say(f"note: {self._why_none()}")
        return {"boxes": len(table)}

    def _why_none(self) -> str:
        """Return why there is no box, and which threshold would let some pass."""
        if self._highest is None:
            return (
                "the model finds no box in these images; torchvision's detectors keep none of a"
                " lower score than score_thresh, or with two stages box_score_thresh: say a lower"
                " one in the spec, such as runs/a,score_thresh=0.01"
            )
        threshold = self._settings.threshold
        # rounded down, so that it is reached
        highest = math.floor(self._highest * 1e4) / 1e4
        return (
            f"no box reaches threshold {threshold:g}: the highest score is {highest:g}; give that"
            " or less as --threshold"
        )

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
    """Return boxes of a view, `[boxes, 4]`, in pixels of its image."""
    frame = objects.frames[view].double().numpy()
    height, width = objects.image_sizes[view].tolist()
    size = np.array([width, height, width, height])
    starts = np.tile(frame[:2], 2)
    spans = np.tile(frame[2:] - frame[:2], 2)
    moved: np.ndarray = (boxes - starts) * (size / spans)
    return moved
