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
_PANEL_WIDTH = 4.9
"""Inches of the figure, and about those of a large panel."""
_CROWDED = 16
_MOST_NAMED = 32
"""Objects above which names are small, and of which no more are named."""
_MOST_COLUMNS = 5
_LEAST_COLUMNS = 3
"""Levels beside each other."""
_TITLE_HEIGHT = 0.35
_MARGIN_HEIGHT = 0.4
_LINE_HEIGHT = 0.22
"""Inches of a panel's title, of what is above all panels, and of a line of the list below."""


class _Object(NamedTuple):
    """An object of the view, and what the teacher says of it."""

    box: Box
    number: int
    """Of its class."""
    is_crowd: bool
    score: float | None
    """The teacher's probability of its class; None if its classes are others."""

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
    num_lines = _list_classes(figure, scene)
    figure.set_figheight(figure.get_figheight() + num_lines * _LINE_HEIGHT)
    return Picture(figure, max(float(level.confidences.max()) for level in levels))


def _panels(size: tuple[int, int], num_levels: int) -> tuple[Any, Any, Any]:
    """Return a figure with two large panels and a small one for each level."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    num_lines = -(-num_levels // _MOST_COLUMNS)
    num_columns = max(-(-num_levels // num_lines), _LEAST_COLUMNS)
    height, width = size
    large_height = _TITLE_HEIGHT + _PANEL_WIDTH * height / width
    small_height = num_lines * (_TITLE_HEIGHT + _WIDTH / num_columns * height / width)
    inches = (_WIDTH, _MARGIN_HEIGHT + large_height + small_height)
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
        if not view.first_class:
            score = max(float(level.within(box)[number]) for level in levels)
        objects.append(_Object(box, number, bool(places.is_crowd[0, at]), score))
    return sorted(objects, key=lambda item: -item.area)


def _name(view: ShownView, number: int) -> str:
    """Return the name of a class, which beside a score must not look like one."""
    name = view.name(number)
    if name.isdecimal():
        return f"class {name}"
    return name


def _colours(objects: Sequence[_Object], peaks: Sequence[Peak], first_class: int) -> dict[int, Any]:
    """Return the colours of the classes in a picture; neighbours in the list of all classes would
    be too much alike."""
    from matplotlib import colormaps  # noqa: PLC0415

    # dark and bright ones take turns there
    tab20 = colormaps["tab20"](range(20))
    palette = [*tab20[0::2], *tab20[1::2]]
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
        _draw_box(panel, item, scene.colours[item.number], line_width=1.5, edge=2.7)
    tags = NameTags(panel, view.size, _PANEL_WIDTH, is_small=len(scene.objects) > _CROWDED)
    for item in scene.objects[:_MOST_NAMED]:
        tags.add(_name(view, item.number), item.score, item.box, scene.colours[item.number])


def _objects_text(scene: _Scene) -> str:
    if not scene.objects:
        return "view, without an object"
    if scene.view.first_class:
        return "view with its boxes"
    if len(scene.objects) > _MOST_NAMED:
        return "view with its boxes, and the teacher's score for large ones"
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
    tags = NameTags(panel, view.size, _PANEL_WIDTH)
    boxes = []
    for peak in scene.peaks:
        colour = scene.colours[view.first_class + peak.number]
        boxes.append(tags.mark(peak.x, peak.y, colour))
    for peak, box in zip(scene.peaks, boxes, strict=True):
        number = view.first_class + peak.number
        tags.add(_name(view, number), peak.score, box, scene.colours[number])


def _teacher_text(scene: _Scene) -> str:
    title = "the teacher's confidence"
    if scene.view.first_class:
        return f"{title}, by its own classes"
    scores = [item.score for item in scene.objects if not item.is_crowd]
    if not scores:
        return title
    num_found = sum(score > _LEAST_SCORE for score in scores if score is not None)
    return f"{title}: {num_found} of {len(scores)} objects above {_LEAST_SCORE:g}"


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


def _list_classes(figure: Any, scene: _Scene) -> int:
    """List the classes of the objects with how many there are, and those that only the teacher
    finds; return how many lines that takes."""
    counts = Counter(item.number for item in scene.objects)
    names = []
    for number in scene.colours:
        name = _name(scene.view, number)
        if counts[number] > 1:
            name = f"{name} ({counts[number]})"
        elif not counts[number] and not scene.view.first_class:
            name = f"{name} (teacher)"
        names.append(name)
    return draw_legend(figure, names, list(scene.colours.values()))
