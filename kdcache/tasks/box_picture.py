"""The picture of the boxes that a detector finds: a view with its objects, and those beside it."""

from dataclasses import dataclass

import torch
from torchvision.ops import box_iou

from kdcache.shapes import Detections
from kdcache.tasks.detected_boxes import MOST_DETECTED, draw_detected
from kdcache.tasks.drawn_objects import LEAST_SCORE, DrawnObject
from kdcache.tasks.name_tags import Box
from kdcache.tasks.picture import Picture, ShownView

_LEAST_OVERLAP = 0.5
"""Of an object and a box that finds it, intersection over union."""


@dataclass(frozen=True, eq=False)
class _Boxes:
    """What a detector finds in a view, the surest first."""

    detections: Detections

    def score_of(self, box: Box, number: int) -> float:
        """Return the score of the surest detection of a class that is where a box is; 0 of none."""
        boxes, scores, classes = self.detections
        overlaps = box_iou(torch.tensor([box]), boxes)[0]
        finds_it = (overlaps >= _LEAST_OVERLAP) & (classes == number)
        return max(scores[finds_it].tolist(), default=0.0)

    def sure(self) -> list[DrawnObject]:
        """Return the detections that are sure, or else the surest."""
        items: list[DrawnObject] = []
        for box, score, number in zip(*(part.tolist() for part in self.detections), strict=True):
            left, upper, right, lower = box
            if len(items) < MOST_DETECTED and (score > LEAST_SCORE or not items):
                items.append(DrawnObject((left, upper, right, lower), number, False, score))
        return items


def draw_boxes(view: ShownView, detections: Detections) -> Picture:
    """Draw a view with its objects, and what a detector finds in it.

    Args:
        view: the view; its classes are the detector's.
        detections: on the CPU.
    """
    order = detections.scores.argsort(descending=True, stable=True)
    boxes = _Boxes(Detections(*(part[order] for part in detections)))
    return draw_detected(
        view,
        boxes.sure(),
        boxes.score_of,
        confidence=max(detections.scores.tolist(), default=0.0),
        title=view.owned("boxes"),
    )
