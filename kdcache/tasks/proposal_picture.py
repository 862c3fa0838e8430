"""The picture of a two-stage detector: a view with its objects, and the teacher's proposals that it
is sure of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from kdcache.soft_targets import SegmentTargets
from kdcache.tasks.class_probabilities import class_probabilities
from kdcache.tasks.drawn_objects import (
    LEAST_SCORE,
    MARGIN_HEIGHT,
    PANEL_WIDTH,
    TITLE_HEIGHT,
    WIDTH,
    DrawnObject,
    ObjectScene,
    class_name,
    draw_box,
    draw_objects,
    frame,
    list_classes,
    object_scene,
    teacher_text,
)
from kdcache.tasks.name_tags import Box, NameTags
from kdcache.tasks.picture import TITLE_SIZE, Picture, ShownView

_MOST_FOUND = 16
_MOST_OVERLAP = 0.5
"""Of two proposals of a class that are drawn, intersection over union."""
_DIMMED = 0.35
"""Opacity of the view below the teacher's boxes."""


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
        sure = kept[best[kept] > LEAST_SCORE][:_MOST_FOUND]
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
    from matplotlib.figure import Figure  # noqa: PLC0415

    proposals = _proposals(view)
    found = proposals.found()
    scene = object_scene(view, proposals.score_of, [item.number for item in found])
    height, width = view.size
    panel_height = TITLE_HEIGHT + PANEL_WIDTH * height / width
    figure = Figure(figsize=(WIDTH, MARGIN_HEIGHT + panel_height), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_objects(left, scene)
    _draw_found(right, scene, found)
    list_classes(figure, scene)
    confidence = 0.0
    if len(proposals.scores):
        confidence = float(proposals.scores.max())
    return Picture(figure, confidence)


def _proposals(view: ShownView) -> _Proposals:
    teacher = view.teacher
    assert isinstance(teacher, SegmentTargets) and teacher.boxes is not None
    assert teacher.counts is not None
    boxes = teacher.boxes[0, : int(teacher.counts[0])]
    scores = class_probabilities(teacher.segments[0].logits(), view.layout)
    return _Proposals(boxes, scores)


def _draw_found(panel: Any, scene: ObjectScene, found: Sequence[DrawnObject]) -> None:
    view = scene.view
    panel.imshow(view.pixels, cmap="gray", alpha=_DIMMED)
    frame(panel, view.size)
    panel.set_title(teacher_text(scene, "the teacher's proposals"), fontsize=TITLE_SIZE)
    tags = NameTags(panel, view.size, PANEL_WIDTH)
    for item in found:
        number = view.first_class + item.number
        draw_box(panel, item, scene.colours[number], line_width=1.5)
    for item in found:
        number = view.first_class + item.number
        tags.add(class_name(view, number), item.score, item.box, scene.colours[number])
