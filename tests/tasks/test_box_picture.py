"""The picture of a view with the boxes that a student finds in it."""

from typing import Any

import numpy as np
import torch
from matplotlib.patches import Rectangle

from kdcache.positions import Pyramid
from kdcache.shapes import Detections, Labels, Objects
from kdcache.soft_targets.segments import by_segment
from kdcache.tasks import open_task
from kdcache.tasks.name_tags import Box
from kdcache.tasks.picture import Picture, ShownView

SIZE = (96, 128)
LAYOUT = Pyramid(((2, 2),), (1,), "sigmoid")
CUP = (8.0, 8.0, 40.0, 40.0)
BOWL = (72.0, 56.0, 120.0, 88.0)


def drawn(
    objects: list[tuple[Box, int]], found: list[tuple[Box, int, float]], who: str = "dist"
) -> Picture:
    """Draw a view with objects, in which a student finds boxes."""
    count = len(objects)
    boxes = torch.tensor([box for box, _ in objects]).reshape(1, count, 4)
    nothing = (torch.full((1, 4), torch.nan), torch.zeros(1, 2))
    is_crowd = torch.zeros(1, count, dtype=torch.bool)
    places = Objects(boxes, torch.ones(1, count), is_crowd, *nothing)
    numbers = torch.tensor([number for _, number in objects], dtype=torch.int64)
    view = ShownView(
        np.full((*SIZE, 3), 200, np.uint8),
        Labels(numbers.reshape(1, count), objects=places),
        by_segment(torch.zeros(1, 4, 3), LAYOUT),
        LAYOUT,
        ["cup", "bowl", "knife"],
        0,
    )
    task = open_task("detection")

    class Output:
        def detections(self) -> list[Detections]:
            table = torch.tensor([[*box, number, score] for box, number, score in found])
            sides, classes, scores = table.reshape(-1, 6).split([4, 1, 1], dim=1)
            return [Detections(sides, scores[:, 0], classes[:, 0].long())]

    picture = task.picture(task.shown(view, Output(), who))
    picture.figure.draw_without_rendering()
    return picture


def tags(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def num_outlines(panel: Any) -> int:
    outlines = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return sum(not patch.get_fill() for patch in outlines)


def test_an_object_has_the_score_of_the_surest_box_of_its_class_that_is_there() -> None:
    beside = (CUP[0] + 24, CUP[1], CUP[2] + 24, CUP[3])
    found = [(CUP, 0, 0.6), (CUP, 1, 0.95), (beside, 0, 0.9), (BOWL, 1, 0.2)]
    left, right = drawn([(CUP, 0), (BOWL, 1)], found).figure.axes[:2]
    assert left.get_title() == "view with its boxes, and the score of dist for each"
    assert sorted(tags(left)) == ["bowl 0.20", "cup 0.60"]
    assert right.get_title() == "the boxes of dist: 1 of 2 objects above 0.3"


def test_boxes_that_are_sure_are_drawn_and_classes_of_the_student_alone_are_listed() -> None:
    picture = drawn([(CUP, 0)], [(BOWL, 2, 0.5), (CUP, 0, 0.9), (BOWL, 1, 0.1)], who="$x")
    _, right = picture.figure.axes[:2]
    assert num_outlines(right) == 2 and tags(right) == ["cup 0.90", "knife 0.50"]
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cup", "knife ($x)"]
    assert picture.confidence == np.float32(0.9)


def test_a_student_that_is_not_sure_shows_its_surest_box_and_one_that_finds_nothing_none() -> None:
    unsure = drawn([(CUP, 0)], [(CUP, 0, 0.1), (BOWL, 1, 0.2)])
    assert tags(unsure.figure.axes[1]) == ["bowl 0.20"]
    nothing = drawn([(CUP, 0)], [])
    assert num_outlines(nothing.figure.axes[1]) == 0 and nothing.confidence == 0
    assert tags(nothing.figure.axes[0]) == ["cup 0.00"]
