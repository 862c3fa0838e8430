"""The picture of detection, looked at by what it holds."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdcache.errors import UsageError
from kdcache.positions import Heads, Layout, Pyramid
from kdcache.shapes import Labels, Objects
from kdcache.soft_targets import by_segment
from kdcache.tasks import open_task
from kdcache.tasks.name_tags import NameTags, ink_on
from kdcache.tasks.picture import Picture, ShownView

SIZE = (96, 128)
LEVELS = Pyramid(((12, 16), (6, 8)), (2, 2))
NAMES = ["cup", "$bowl", "_spoon", "knife"]
Box = tuple[float, float, float, float]


def shown(
    boxes: list[Box],
    numbers: list[int],
    *loud: tuple[int, int, float],
    crowds: tuple[int, ...] = (),
    layout: Layout = LEVELS,
    first_class: int = 0,
    names: list[str] | None = None,
) -> ShownView:
    """Return a view with objects, of which a quiet teacher says something at some positions."""
    count = len(boxes)
    logits = torch.full((1, layout.num_positions, 4), -6.0)
    for position, number, logit in loud:
        logits[0, position, number] = logit
    is_crowd = torch.zeros(1, count, dtype=torch.bool)
    is_crowd[0, list(crowds)] = True
    objects = Objects(
        torch.tensor(boxes).reshape(1, count, 4),
        torch.ones(1, count),
        is_crowd,
        torch.full((1, 4), torch.nan),
        torch.zeros(1, 2),
    )
    labels = Labels(torch.tensor(numbers, dtype=torch.int64).reshape(1, count), objects=objects)
    pixels = np.full((*SIZE, 3), 200, np.uint8)
    all_names = list(names or NAMES)
    if first_class:
        all_names += [f"teacher's {number}" for number in range(4)]
    return ShownView(pixels, labels, by_segment(logits, layout), layout, all_names, first_class)


def drawn(view: ShownView) -> Picture:
    picture = open_task("detection").picture(view)
    assert isinstance(picture.figure, Figure)
    picture.figure.draw_without_rendering()
    return picture


def texts(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def listed(picture: Picture) -> list[str]:
    (legend,) = picture.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def outlines(panel: Any, style: str) -> int:
    rectangles = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return sum(not patch.get_fill() and patch.get_linestyle() == style for patch in rectangles)


def at(line: int, column: int) -> int:
    """Return the position of an anchor at a place of level 0, which lies at 8 times that."""
    return 2 * (16 * line + column) + 1


def test_boxes_are_named_with_the_teachers_score_for_their_class() -> None:
    boxes = [(8.0, 8.0, 56.0, 40.0), (72.0, 56.0, 120.0, 88.0)]
    picture = drawn(shown(boxes, [0, 1], (at(3, 4), 0, 2.0), (at(9, 12), 3, 1.0)))
    left, right, *levels = picture.figure.axes
    assert texts(left) == ["cup 0.88", "$bowl 0.00"]
    assert texts(right) == ["cup 0.88", "knife 0.73"]
    assert right.get_title() == "the teacher's confidence: 1 of 2 objects above 0.3"
    assert picture.confidence == pytest.approx(0.8808, abs=1e-4)
    assert listed(picture) == ["cup", "$bowl", "knife (teacher)"]
    titles = [panel.get_title() for panel in levels]
    assert "level 0: 12x16, up to 0.88" in titles
    assert "level 1: 6x8, up to 0.00" in titles
    heat = right.images[0].get_array()
    assert heat.shape == SIZE
    line, column = np.unravel_index(heat.argmax(), SIZE)
    assert abs(line - 24) <= 1
    assert abs(column - 32) <= 1


def test_a_view_without_an_object_is_drawn() -> None:
    picture = drawn(shown([], []))
    left, right, *_ = picture.figure.axes
    assert left.get_title() == "view, without an object"
    assert right.get_title() == "the teacher's confidence"
    assert texts(left) == []
    assert texts(right) == ["cup 0.00"]


def test_crowds_are_dashed_and_not_counted() -> None:
    boxes = [(8.0, 8.0, 56.0, 40.0), (72.0, 56.0, 120.0, 88.0)]
    picture = drawn(shown(boxes, [0, 1], (at(3, 4), 0, 2.0), crowds=(1,)))
    left, right, *_ = picture.figure.axes
    assert right.get_title() == "the teacher's confidence: 1 of 1 objects above 0.3"
    assert outlines(right, "--") == 1
    assert outlines(right, "-") == 1
    assert outlines(left, "--") == 1


def test_a_teacher_of_other_classes_is_neither_right_nor_wrong() -> None:
    view = shown([(8.0, 8.0, 56.0, 40.0)], [0], (at(3, 4), 3, 2.0), first_class=4)
    picture = drawn(view)
    left, right, *_ = picture.figure.axes
    assert texts(left) == ["cup"]
    assert texts(right) == ["teacher's 3 0.88"]
    assert right.get_title() == "the teacher's confidence, by its own classes"
    assert listed(picture) == ["cup", "teacher's 3"]


def test_a_number_for_a_name_does_not_look_like_a_score() -> None:
    view = shown([(8.0, 8.0, 56.0, 40.0)], [2], names=["0", "1", "2", "3"])
    left, *_ = drawn(view).figure.axes
    assert texts(left) == ["class 2 0.00"]


def test_of_many_objects_the_largest_are_named() -> None:
    boxes = []
    for number in range(60):
        left = 2.0 * number
        boxes.append((left, 1.5 * number, left + 2, 1.5 * number + 3))
    boxes[17] = (10.0, 10.0, 120.0, 90.0)
    picture = drawn(shown(boxes, [0] * 17 + [1] + [2] * 42))
    left, *_ = picture.figure.axes
    assert texts(left)[0].startswith("$bowl ")
    assert 8 <= len(texts(left)) <= 32
    assert outlines(left, "-") == 2 * 60
    assert listed(picture) == ["cup (17)", "$bowl", "_spoon (42)"]


def test_what_cannot_be_drawn_is_refused() -> None:
    layout = Heads(((12, 16), (6, 8)))
    view = shown([], [], layout=layout)
    for task in ("detection", "segmentation", "classification"):
        with pytest.raises(UsageError, match="holds logits of heads, which cannot be drawn"):
            open_task(task).picture(view)


def panel() -> Any:
    return Figure().subplots()


def test_no_tag_hides_another_or_a_mark_and_none_leaves_the_view() -> None:
    axes = panel()
    tags = NameTags(axes, SIZE, 4.9)
    random = np.random.default_rng(0)
    marks = []
    for _ in range(10):
        x, y = random.uniform(0, 90, 2)
        marks.append(tags.mark(float(x), float(y), "red"))
    num_written = 0
    for _ in range(80):
        left, upper = random.uniform(0, 90, 2)
        box = (float(left), float(upper), float(left + 9), float(upper + 7))
        num_written += tags.add("a name", 0.5, box, "blue")
    assert len(axes.patches) == len(axes.texts) == num_written
    assert 20 <= num_written < 80
    sides = []
    for patch in axes.patches:
        left, upper = patch.get_xy()
        sides.append((left, upper, left + patch.get_width(), upper + patch.get_height()))
    for number, (left, upper, right, lower) in enumerate(sides):
        assert left >= 0
        assert upper >= 0
        assert right <= SIZE[1]
        assert lower <= SIZE[0]
        for other in [*sides[:number], *marks]:
            is_beside = right <= other[0] or left >= other[2]
            assert is_beside or lower <= other[1] or upper >= other[3]


@pytest.mark.parametrize("size", [(96, 128), (800, 1344)])
def test_a_text_fits_its_tag(size: tuple[int, int]) -> None:
    """Text is measured as matplotlib draws it, in a panel as wide as it was said to be."""
    figure = Figure(figsize=(4.9, 4.9 * size[0] / size[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, size[1])
    axes.set_ylim(size[0], 0)
    tags = NameTags(axes, size, 4.9)
    assert tags.add("Wide M names are as wide as this", 0.5, (0.0, 0.0, 9.0, 9.0), "blue")
    figure.draw_without_rendering()
    text = axes.texts[0].get_window_extent()
    tag = axes.patches[0].get_window_extent()
    assert tag.x0 < text.x0 < text.x1 < tag.x1
    assert tag.y0 <= text.y0 + 1
    assert text.y1 - 1 <= tag.y1
    assert tag.width < 1.2 * text.width


def test_ink_is_black_on_bright_and_white_on_dark() -> None:
    assert ink_on("yellow") == "black"
    assert ink_on("navy") == "white"
    assert to_rgb(ink_on((0.1, 0.1, 0.1))) == (1, 1, 1)
