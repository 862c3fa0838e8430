"""The picture of detection: a view with its objects, where the teacher finds classes, and how sure
it is at each level.

A cache holds class probabilities and no boxes, so what the teacher says of an object is what it
says in the middle of the object's box, and what it finds by itself is a place, not a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.tasks.box_picture import draw_boxes
from kdcache.tasks.drawn_objects import (
    LEAST_SCORE,
    MARGIN_HEIGHT,
    PANEL_WIDTH,
    TITLE_HEIGHT,
    WIDTH,
    ObjectScene,
    class_name,
    draw_box,
    draw_objects,
    frame,
    list_classes,
    object_scene,
    score_text,
)
from kdcache.tasks.level_scores import LevelScores, Peak, highest_peaks, level_scores
from kdcache.tasks.name_tags import Box, NameTags
from kdcache.tasks.picture import TITLE_SIZE, Picture, ShownView, require_drawable
from kdcache.tasks.proposal_picture import draw_proposals

_MOST_PEAKS = 12
"""Of the places that are named."""
_MOST_COLUMNS = 5
_LEAST_COLUMNS = 3
"""Levels beside each other."""


@dataclass(frozen=True, eq=False)
class _Levels:
    """What the teacher says at the places of a pyramid."""

    levels: Sequence[LevelScores]
    peaks: Sequence[Peak]

    def score_of(self, box: Box, number: int) -> float:
        """Return the highest score of a class in the middle of a box."""
        return max(float(level.within(box)[number]) for level in self.levels)


def draw_detection(view: ShownView) -> Picture:
    """Draw a view with its boxes, where the teacher finds classes, and of a pyramid its confidence
    by level; of a student the boxes that it finds.

    Raises:
        UsageError: logits of another layout than a pyramid or proposals.
    """
    if view.detections is not None:
        return draw_boxes(view, view.detections)
    require_drawable(view.layout, ["pyramid", "proposals"])
    if view.layout.has_boxes:
        return draw_proposals(view)
    levels = level_scores(view.teacher, view.layout, view.size)
    teacher = _Levels(levels, highest_peaks(levels, LEAST_SCORE, _MOST_PEAKS))
    scene = object_scene(view, teacher.score_of, [peak.number for peak in teacher.peaks])
    figure, large, small = _panels(view.size, len(levels))
    draw_objects(large[0], scene)
    _draw_peaks(large[1], scene, teacher)
    for panel, level, number in zip(small, levels, range(len(levels)), strict=True):
        _draw_level(panel, scene, level, number)
    list_classes(figure, scene)
    return Picture(figure, max(float(level.confidences.max()) for level in levels))


def _panels(size: tuple[int, int], num_levels: int) -> tuple[Any, Any, Any]:
    """Return a figure with two large panels and a small one for each level."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    num_lines = -(-num_levels // _MOST_COLUMNS)
    num_columns = max(-(-num_levels // num_lines), _LEAST_COLUMNS)
    height, width = size
    large_height = TITLE_HEIGHT + PANEL_WIDTH * height / width
    small_height = num_lines * (TITLE_HEIGHT + WIDTH / num_columns * height / width)
    inches = (WIDTH, MARGIN_HEIGHT + large_height + small_height)
    figure = Figure(figsize=inches, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(large_height, small_height))
    large = grid[0].subgridspec(1, 2).subplots()
    small = grid[1].subgridspec(num_lines, num_columns).subplots(squeeze=False).ravel()
    for panel in small[num_levels:]:
        panel.set_axis_off()
    return figure, large, small[:num_levels]


def _draw_peaks(panel: Any, scene: ObjectScene, teacher: _Levels) -> None:
    """Draw the largest confidence of all levels, with names where it peaks."""
    view = scene.view
    heat = np.max([level.smooth(view.size) for level in teacher.levels], axis=0)
    image = panel.imshow(heat, vmin=0, vmax=1, cmap="viridis")
    panel.figure.colorbar(image, ax=panel, shrink=0.8)
    frame(panel, view.size)
    title = score_text(scene, view.owned("confidence"))
    panel.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
    for item in scene.objects:
        draw_box(panel, item, "white", line_width=0.8)
    tags = NameTags(panel, view.size, PANEL_WIDTH)
    boxes = []
    for peak in teacher.peaks:
        colour = scene.colours[view.first_class + peak.number]
        boxes.append(tags.mark(peak.x, peak.y, colour))
    for peak, box in zip(teacher.peaks, boxes, strict=True):
        number = view.first_class + peak.number
        tags.add(class_name(view, number), peak.score, box, scene.colours[number])


def _draw_level(panel: Any, scene: ObjectScene, level: LevelScores, number: int) -> None:
    """Draw the confidence at each place of a level."""
    size = scene.view.size
    panel.imshow(level.nearest(size), vmin=0, vmax=1, cmap="viridis")
    frame(panel, size)
    height, width = level.confidences.shape
    highest = level.confidences.max()
    panel.set_title(f"level {number}: {height}x{width}, up to {highest:.2f}", fontsize=9)
    for item in scene.objects:
        draw_box(panel, item, "white", line_width=0.5)
