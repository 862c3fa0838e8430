"""The picture of a two-stage detector, looked at by what it holds."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from kdcache.positions import Boxes, Proposals
from kdcache.shapes import Labels, Objects
from kdcache.soft_targets import by_segment
from kdcache.tasks import open_task
from kdcache.tasks.picture import Picture, ShownView

SIZE = (96, 128)
LAYOUT = Proposals(6)
Box = tuple[float, float, float, float]
CUP = (8.0, 8.0, 56.0, 40.0)
BOWL = (72.0, 56.0, 120.0, 88.0)


def drawn(
    objects: list[tuple[Box, int]], proposals: list[tuple[Box, int, float]], *, first_class: int = 0
) -> Picture:
    """Draw a view with objects and proposals, each of which has a logit for one class."""
    logits = torch.zeros(1, 6, 4)
    places = torch.zeros(1, 6, 4)
    for place, (box, number, logit) in enumerate(proposals):
        places[0, place] = torch.tensor(box)
        logits[0, place, 1 + number] = logit
    boxes = Boxes(places, torch.tensor([len(proposals)]))
    count = len(objects)
    where = torch.tensor([box for box, _ in objects]).reshape(1, count, 4)
    numbers = torch.tensor([number for _, number in objects], dtype=torch.int64)
    ones = torch.ones(1, count)
    is_crowd = torch.zeros(1, count, dtype=torch.bool)
    nothing = (torch.full((1, 4), torch.nan), torch.zeros(1, 2))
    labels = Labels(numbers.reshape(1, count), objects=Objects(where, ones, is_crowd, *nothing))
    names = ["cup", "bowl", "knife"]
    if first_class:
        names += ["theirs 0", "theirs 1", "theirs 2"]
    pixels = np.full((*SIZE, 3), 200, np.uint8)
    teacher = by_segment(logits, LAYOUT, boxes)
    view = ShownView(pixels, labels, teacher, LAYOUT, names, first_class)
    picture = open_task("detection").picture(view)
    picture.figure.draw_without_rendering()
    return picture


def tags(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def num_outlines(panel: Any) -> int:
    count = 0
    for patch in panel.patches:
        count += isinstance(patch, Rectangle) and not patch.get_fill()
    return count


def test_objects_have_the_score_of_their_proposal_and_sure_proposals_are_drawn() -> None:
    beside = (10.0, 9.0, 57.0, 42.0)
    proposals = [(CUP, 0, 4.0), (BOWL, 1, 0.5), (beside, 0, 3.0), ((80.0, 8.0, 99.0, 20.0), 2, 6.0)]
    picture = drawn([(CUP, 0), (BOWL, 1)], proposals)
    left, right = picture.figure.axes
    assert tags(left) == ["cup 0.95", "bowl 0.35"]
    # the one beside the cup is the cup's
    assert tags(right) == ["knife 0.99", "cup 0.95", "bowl 0.35"] and num_outlines(right) == 3
    assert right.get_title() == "the teacher's proposals: 2 of 2 objects above 0.3"
    assert picture.confidence == pytest.approx(0.9926, abs=1e-4)
    (legend,) = picture.figure.legends
    listed = [text.get_text() for text in legend.get_texts()]
    assert listed == ["cup", "bowl", "knife (teacher)"]


def test_the_surest_is_drawn_where_none_is_sure() -> None:
    picture = drawn([], [(CUP, 0, 0.1), (BOWL, 1, 0.2)])
    left, right = picture.figure.axes
    assert left.get_title() == "view, without an object"
    assert tags(right) == ["bowl 0.29"]


def test_a_view_without_a_proposal_is_drawn() -> None:
    picture = drawn([(CUP, 0)], [])
    left, right = picture.figure.axes
    assert tags(left) == ["cup 0.00"] and tags(right) == [] and picture.confidence == 0


def test_a_teacher_of_other_classes_is_neither_right_nor_wrong() -> None:
    picture = drawn([(CUP, 0)], [(CUP, 2, 4.0)], first_class=3)
    left, right = picture.figure.axes
    assert tags(left) == ["cup"] and tags(right) == ["theirs 2 0.95"]
    assert right.get_title() == "the teacher's proposals, by its own classes"
