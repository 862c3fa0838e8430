"""The objects of a view in a picture of detection: boxes, names and the teacher's scores."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdcache.tasks.name_tags import Box, NameTags
from kdcache.tasks.picture import TITLE_SIZE, ShownView, draw_legend

LEAST_SCORE = 0.3
"""Of what the teacher is said to find."""
WIDTH = 11.0
PANEL_WIDTH = 4.9
TITLE_HEIGHT = 0.35
MARGIN_HEIGHT = 0.4
_LINE_HEIGHT = 0.22
"""Inches of the figure, about those of a large panel, of a panel's title, of what is above all
panels, and of a line of the list below."""
_CROWDED = 16
_MOST_NAMED = 32
"""Objects above which names are small, and of which no more are named."""


class DrawnObject(NamedTuple):
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
class ObjectScene:
    """What is drawn: a view and its objects."""

    view: ShownView
    objects: Sequence[DrawnObject]
    """The largest first, so that small ones are drawn upon them."""
    colours: dict[int, Any]
    """Of the classes of objects, and of those that the teacher finds."""


def object_scene(
    view: ShownView, score_of: Callable[[Box, int], float], found: Iterable[int]
) -> ObjectScene:
    """Return what is drawn of a view.

    Args:
        view: the view.
        score_of: the teacher's probability of a class at a box.
        found: the classes that the teacher finds, as it counts them.
    """
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
            score = score_of(box, number)
        objects.append(DrawnObject(box, number, bool(places.is_crowd[0, at]), score))
    objects.sort(key=lambda item: -item.area)
    return ObjectScene(view, objects, _colours(objects, found, view.first_class))


def class_name(view: ShownView, number: int) -> str:
    """Return the name of a class, which beside a score must not look like one."""
    name = view.name(number)
    if name.isdecimal():
        return f"class {name}"
    return name


def draw_objects(panel: Any, scene: ObjectScene) -> None:
    """Draw a view with its boxes, and name them with the teacher's score for the class of each."""
    view = scene.view
    panel.imshow(view.pixels, cmap="gray")
    frame(panel, view.size)
    panel.set_title(_objects_text(scene), fontsize=TITLE_SIZE, parse_math=False)
    for item in scene.objects:
        draw_box(panel, item, scene.colours[item.number], line_width=1.5, edge=2.7)
    tags = NameTags(panel, view.size, PANEL_WIDTH, is_small=len(scene.objects) > _CROWDED)
    for item in scene.objects[:_MOST_NAMED]:
        name = class_name(view, item.number)
        tags.add(name, item.score, item.box, scene.colours[item.number])


def score_text(scene: ObjectScene, title: str) -> str:
    """Return a title, and how many objects the teacher, or a student, finds."""
    if scene.view.first_class:
        return f"{title}, by its own classes"
    scores = [item.score for item in scene.objects if not item.is_crowd]
    if not scores:
        return title
    num_found = sum(score > LEAST_SCORE for score in scores if score is not None)
    return f"{title}: {num_found} of {len(scores)} objects above {LEAST_SCORE:g}"


def frame(panel: Any, size: tuple[int, int]) -> None:
    """Show what is in a view, and nothing beside it; boxes count from the edge of the first pixel,
    and pixels from their middle."""
    height, width = size
    for image in panel.images:
        image.set_extent((0, width, height, 0))
    panel.set_xlim(0, width)
    panel.set_ylim(height, 0)
    panel.set_axis_off()


def draw_box(
    panel: Any, item: DrawnObject, colour: Any, *, line_width: float, edge: float = 0.0
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


def list_classes(figure: Any, scene: ObjectScene) -> None:
    """List the classes of the objects with how many there are, and those that only the teacher
    finds, below all panels."""
    counts = Counter(item.number for item in scene.objects)
    names = []
    for number in scene.colours:
        name = class_name(scene.view, number)
        if counts[number] > 1:
            name = f"{name} ({counts[number]})"
        elif not counts[number] and not scene.view.first_class:
            name = f"{name} ({scene.view.who})"
        names.append(name)
    num_lines = draw_legend(figure, names, list(scene.colours.values()))
    figure.set_figheight(figure.get_figheight() + num_lines * _LINE_HEIGHT)


def _objects_text(scene: ObjectScene) -> str:
    if not scene.objects:
        return "view, without an object"
    if scene.view.first_class:
        return "view with its boxes"
    if len(scene.objects) > _MOST_NAMED:
        return f"view with its boxes, and {scene.view.owned('score')} for large ones"
    return f"view with its boxes, and {scene.view.owned('score')} for each"


def _colours(
    objects: Sequence[DrawnObject], found: Iterable[int], first_class: int
) -> dict[int, Any]:
    """Return the colours of the classes in a picture; neighbours in the list of all classes would
    be too much alike."""
    from matplotlib import colormaps  # noqa: PLC0415

    # dark and bright ones take turns there
    tab20 = colormaps["tab20"](range(20))
    palette = [*tab20[0::2], *tab20[1::2]]
    numbers = sorted({item.number for item in objects})
    numbers += sorted({first_class + number for number in found} - set(numbers))
    return {number: palette[place % len(palette)] for place, number in enumerate(numbers)}
