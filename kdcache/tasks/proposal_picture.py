"""The picture of a two-stage detector: a view with its objects, and the teacher's proposals that it
is sure of."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from kdcache.soft_targets import SegmentTargets
from kdcache.tasks.class_probabilities import class_probabilities
from kdcache.tasks.detected_boxes import MOST_DETECTED, draw_detected
from kdcache.tasks.drawn_objects import LEAST_SCORE, DrawnObject
from kdcache.tasks.name_tags import Box
from kdcache.tasks.picture import Picture, ShownView

_MOST_OVERLAP = 0.5
"""Of two proposals of a class that are drawn, intersection over union."""


@dataclass(frozen=True, eq=False)
class _Proposals:
    """The proposals of a view, `[proposals, ...]`."""

    boxes: Tensor
    scores: Tensor
    """Of each class of the teacher."""

    def score_of(self, box: Box, number: int) -> float:
        """Return the score of a class at the proposal that overlaps a box most; 0 of none."""
        if not len(self.boxes):
            return 0.0
        overlaps = box_iou(torch.tensor([box]), self.boxes)[0]
        return float(self.scores[overlaps.argmax(), number])

    def found(self) -> list[DrawnObject]:
        """Return the proposals that the teacher is surest of, without those beside a surer one of
        their class."""
        if not len(self.boxes):
            return []
        best, numbers = self.scores.max(1)
        kept = batched_nms(self.boxes, best, numbers, _MOST_OVERLAP)
        sure = kept[best[kept] > LEAST_SCORE][:MOST_DETECTED]
        if not len(sure):
            sure = kept[:1]
        items = []
        for place in sure.tolist():
            left, upper, right, lower = self.boxes[place].tolist()
            box = (left, upper, right, lower)
            items.append(DrawnObject(box, int(numbers[place]), False, float(best[place])))
        return items


def draw_proposals(view: ShownView) -> Picture:
    """Draw a view with its boxes, and the proposals at which the teacher finds classes."""
    proposals = _proposals(view)
    confidence = 0.0
    if len(proposals.scores):
        confidence = float(proposals.scores.max())
    return draw_detected(
        view,
        proposals.found(),
        proposals.score_of,
        confidence=confidence,
        title=view.owned("proposals"),
    )


def _proposals(view: ShownView) -> _Proposals:
    teacher = view.teacher
    assert isinstance(teacher, SegmentTargets) and teacher.boxes is not None
    assert teacher.counts is not None
    boxes = teacher.boxes[0, : int(teacher.counts[0])]
    scores = class_probabilities(teacher.segments[0].logits(), view.layout)
    return _Proposals(boxes, scores)
