"""The picture of detection: a view with its objects, where the teacher finds classes, and how sure
it is at each level.

A cache holds class probabilities and no boxes, so what the teacher says of an object is what it
says in the middle of the object's box, and what it finds by itself is a place, not a box.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from kdcache.tasks.level_scores import LevelScores, Peak, highest_peaks, level_scores
from kdcache.tasks.name_tags import Box, NameTags
from kdcache.tasks.picture import (
    TITLE_SIZE,
    Picture,
    ShownView,
    draw_legend,
    require_drawable,
)

_LEAST_SCORE = 0.3
_MOST_PEAKS = 12
"""Of the places that are named."""
_WIDTH = 11.0
"""Inches of the figure."""
_PANEL_POINTS = 345.0
"""About how wide a large panel is."""
_MOST_COLUMNS = 5
_LEAST_COLUMNS = 4
"""Levels beside each other."""
_TITLE_INCHES = 0.3
_MARGIN_INCHES = 1.0
"""Above a panel, and of the title and the legend."""


class _Object(NamedTuple):
    """An object of the view, and what the teacher says of it."""

    box: Box
    number: int
    """Of its class."""
    is_crowd: bool
    score: float | None
    """The teacher's probability of its class; None if its classes are others."""
    is_right: bool
    """Whether the teacher finds no other class more likely there."""

    @property
    def area(self) -> float:
        """Pixels of the view."""
        left, upper, right, lower = self.box
        return (right - left) * (lower - upper)


@dataclass(frozen=True, eq=False)
class _Scene:
    """What is drawn."""

    view: ShownView
    levels: Sequence[LevelScores]
    objects: Sequence[_Object]
    peaks: Sequence[Peak]
    colours: dict[int, Any]
    """Of the classes of objects and peaks."""


def draw_detection(view: ShownView) -> Picture:
    """Draw a view with its boxes, where the teacher finds classes, and its confidence by level.

    Raises:
        UsageError: logits of another layout than a pyramid.
    """
    require_drawable(view.layout, ["pyramid"])
    levels = level_scores(view.teacher, view.layout, view.size)
    objects = _objects(view, levels)
    peaks = highest_peaks(levels, _LEAST_SCORE, _MOST_PEAKS)
    colours = _colours(objects, peaks, view.first_class)
    scene = _Scene(view, levels, objects, peaks, colours)
    figure, large, small = _panels(view.size, len(levels))
    _draw_objects(large[0], scene)
    _draw_peaks(large[1], scene)
    for number, panel in enumerate(small):
        _draw_level(panel, scene, number)
    _list_classes(figure, scene)
    return Picture(figure, max(float(level.confidences.max()) for level in levels))


def _panels(size: tuple[int, int], num_levels: int) -> tuple[Any, Any, Any]:
    """Return a figure with two large panels and a small one for each level."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    num_lines = -(-num_levels // _MOST_COLUMNS)
    num_columns = max(min(num_levels, _MOST_COLUMNS), _LEAST_COLUMNS)
    height, width = size
    large_height = _TITLE_INCHES + _WIDTH / 2 * height / width
    small_height = num_lines * (_TITLE_INCHES + _WIDTH / num_columns * height / width)
    inches = (_WIDTH, _MARGIN_INCHES + large_height + small_height)
    figure = Figure(figsize=inches, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(large_height, small_height))
    large = grid[0].subgridspec(1, 2).subplots()
    small = grid[1].subgridspec(num_lines, num_columns).subplots(squeeze=False).ravel()
    for panel in small[num_levels:]:
        panel.set_axis_off()
    return figure, large, small[:num_levels]


def _objects(view: ShownView, levels: Sequence[LevelScores]) -> list[_Object]:
    """Return the objects of a view, the largest first, so that small ones are drawn upon them."""
    places = view.labels.objects
    assert places is not None, "labels of detection have objects"
    objects = []
    for at, number in enumerate(view.labels.first[0].tolist()):
        if number < 0:
            continue
        left, upper, right, lower = places.boxes[0, at].tolist()
        box = (left, upper, right, lower)
        score = None
        is_right = False
        if not view.first_class:
            scores = torch.stack([level.within(box) for level in levels]).amax(0)
            score = float(scores[number])
            is_right = score == float(scores.max())
        objects.append(_Object(box, number, bool(places.is_crowd[0, at]), score, is_right))
    return sorted(objects, key=lambda item: -item.area)


def _colours(objects: Sequence[_Object], peaks: Sequence[Peak], first_class: int) -> dict[int, Any]:
    """Return the colours of the classes in a picture; neighbours in the list of all classes would
    be too much alike."""
    from matplotlib import colormaps  # noqa: PLC0415

    palette = colormaps["tab20"].colors
    palette = palette[0::2] + palette[1::2]
    numbers = sorted({item.number for item in objects})
    numbers += sorted({first_class + peak.number for peak in peaks} - set(numbers))
    return {number: palette[place % len(palette)] for place, number in enumerate(numbers)}


def _draw_objects(panel: Any, scene: _Scene) -> None:
    """Draw a view with its boxes, and name them with the teacher's score for the class of each."""
    view = scene.view
    panel.imshow(view.pixels, cmap="gray")
    _frame(panel, view.size)
    panel.set_title(_objects_text(scene), fontsize=TITLE_SIZE)
    for item in scene.objects:
        _draw_box(panel, item, scene.colours[item.number], line_width=1.6, edge=3.0)
    tags = NameTags(panel, view.size, _PANEL_POINTS)
    for item in scene.objects:
        tags.add(view.name(item.number), item.score, item.box, scene.colours[item.number])


def _objects_text(scene: _Scene) -> str:
    if not scene.objects:
        return "view, without an object"
    if scene.view.first_class:
        return "view with its boxes"
    return "view with its boxes, and the teacher's score for each"


def _draw_peaks(panel: Any, scene: _Scene) -> None:
    """Draw the largest confidence of all levels, with names where it peaks."""
    view = scene.view
    heat = np.max([level.smooth(view.size) for level in scene.levels], axis=0)
    image = panel.imshow(heat, vmin=0, vmax=1, cmap="viridis")
    panel.figure.colorbar(image, ax=panel, shrink=0.8)
    _frame(panel, view.size)
    panel.set_title(_teacher_text(scene), fontsize=TITLE_SIZE)
    for item in scene.objects:
        _draw_box(panel, item, "white", line_width=0.8)
    tags = NameTags(panel, view.size, _PANEL_POINTS)
    for peak in scene.peaks:
        number = view.first_class + peak.number
        colour = scene.colours[number]
        panel.plot(peak.x, peak.y, "o", ms=5, mfc=colour, mec="white", mew=1, zorder=3)
        gap = peak.stride / 2
        around = (peak.x - gap, peak.y - gap, peak.x + gap, peak.y + gap)
        tags.add(view.name(number), peak.score, around, colour)


def _teacher_text(scene: _Scene) -> str:
    if scene.view.first_class:
        return "teacher: its own classes"
    counted = [item for item in scene.objects if not item.is_crowd]
    if not counted:
        return "teacher: no object to find"
    num_right = sum(item.is_right for item in counted)
    return f"teacher: {num_right} of {len(counted)} objects right"


def _draw_level(panel: Any, scene: _Scene, number: int) -> None:
    """Draw the confidence at each place of a level."""
    level = scene.levels[number]
    size = scene.view.size
    panel.imshow(level.nearest(size), vmin=0, vmax=1, cmap="viridis")
    _frame(panel, size)
    height, width = level.confidences.shape
    highest = level.confidences.max()
    panel.set_title(f"level {number}: {height}x{width}, up to {highest:.2f}", fontsize=9)
    for item in scene.objects:
        _draw_box(panel, item, "white", line_width=0.5)


def _frame(panel: Any, size: tuple[int, int]) -> None:
    """Show what is in a view, and nothing beside it; boxes count from the edge of the first pixel,
    and pixels from their middle."""
    height, width = size
    for image in panel.images:
        image.set_extent((0, width, height, 0))
    panel.set_xlim(0, width)
    panel.set_ylim(height, 0)
    panel.set_axis_off()


def _draw_box(
    panel: Any, item: _Object, colour: Any, *, line_width: float, edge: float = 0.0
) -> None:
    """Draw the outline of a box, dashed of a crowd, on a white edge if that has a width."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    left, upper, right, lower = item.box
    style = "-"
    if item.is_crowd:
        style = "--"
    widths = [(line_width, colour, style)]
    if edge:
        widths.insert(0, (edge, "white", "-"))
    for width, outline, outline_style in widths:
        rectangle = Rectangle((left, upper), right - left, lower - upper)
        rectangle.set(fill=False, lw=width, ec=outline, ls=outline_style, zorder=2)
        panel.add_patch(rectangle)


def _list_classes(figure: Any, scene: _Scene) -> None:
    """List the classes of the objects with how many there are, and those that only the teacher
    finds."""
    counts = Counter(item.number for item in scene.objects)
    names = []
    for number in scene.colours:
        name = scene.view.name(number)
        if counts[number] > 1:
            name = f"{name} ({counts[number]})"
        elif not counts[number]:
            name = f"{name} (teacher)"
        names.append(name)
    draw_legend(figure, names, list(scene.colours.values()))
