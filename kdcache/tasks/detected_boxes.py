"""A view with its objects, and beside it the boxes that a model detects."""

from collections.abc import Callable, Sequence
from typing import Any

from kdcache.tasks.drawn_objects import (
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
    score_text,
)
from kdcache.tasks.name_tags import Box, NameTags
from kdcache.tasks.picture import TITLE_SIZE, Picture, ShownView

MOST_DETECTED = 16
"""Boxes that are drawn."""
_DIMMED = 0.35
"""Opacity of the view below these boxes."""


def draw_detected(
    view: ShownView,
    detected: Sequence[DrawnObject],
    score_of: Callable[[Box, int], float],
    *,
    confidence: float,
    title: str,
) -> Picture:
    """Draw a view with its objects, and the boxes that are detected in it.

    Args:
        view: the view.
        detected: the boxes, with classes as the model that detects them counts these.
        score_of: how sure of a class that model is at the box of an object.
        confidence: of the picture.
        title: of the detected boxes.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    scene = object_scene(view, score_of, [item.number for item in detected])
    height, width = view.size
    panel_height = TITLE_HEIGHT + PANEL_WIDTH * height / width
    figure = Figure(figsize=(WIDTH, MARGIN_HEIGHT + panel_height), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_objects(left, scene)
    _draw_boxes(right, scene, detected, title)
    list_classes(figure, scene)
    return Picture(figure, confidence)


def _draw_boxes(
    panel: Any, scene: ObjectScene, detected: Sequence[DrawnObject], title: str
) -> None:
    view = scene.view
    panel.imshow(view.pixels, cmap="gray", alpha=_DIMMED)
    frame(panel, view.size)
    panel.set_title(score_text(scene, title), fontsize=TITLE_SIZE, parse_math=False)
    tags = NameTags(panel, view.size, PANEL_WIDTH)
    for item in detected:
        number = view.first_class + item.number
        draw_box(panel, item, scene.colours[number], line_width=1.5)
    for item in detected:
        number = view.first_class + item.number
        tags.add(class_name(view, number), item.score, item.box, scene.colours[number])
