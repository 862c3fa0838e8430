"""The picture of segmentation: a view, its mask, the teacher's classes and how sure it is of
them."""

from typing import Any

import numpy as np

from kdcache.errors import one_line
from kdcache.shapes import IGNORED
from kdcache.tasks.map_sizes import upsampled
from kdcache.tasks.picture import (
    TITLE_SIZE,
    Picture,
    ShownView,
    draw_legend,
    require_drawable,
)

_MOST_CHARS = 40
"""Characters of the name of who says something."""
_GREY: dict[str, Any] = {"cmap": "gray"}
"""Of images of one channel."""
_SURE: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1}
"""Of confidences."""


def draw_segmentation(view: ShownView) -> Picture:
    """Draw a view with its mask and the main head's map.

    Raises:
        UsageError: logits of another layout than maps of one size.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    require_drawable(view.layout, ["heads"])
    mask = view.labels.first[0].numpy()
    height, width = mask.shape
    maps = view.teacher.probs(1.0)[:, 0]
    confidences, predictions = upsampled(maps, (height, width))[0].max(0)
    classes = predictions.numpy() + view.first_class
    colours = _colours(len(view.names))
    has_class = mask != IGNORED
    about_teacher = "its own classes"
    if not view.first_class:
        about_teacher = _right_text((classes == mask)[has_class])
    who = one_line(view.who, _MOST_CHARS)
    figure = Figure(figsize=(11, 1.6 + 10 * height / width), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    _draw_image(panels[0], view.pixels, "view")
    _draw_image(panels[1], _coloured(mask, colours), "mask (black: no class)")
    _draw_image(panels[2], colours[classes], f"{who}: {about_teacher}")
    heat = _draw_image(panels[3], confidences.numpy(), f"confidence of {who}", **_SURE)
    figure.colorbar(heat, ax=panels[3], shrink=0.8)
    _draw_classes(figure, view, np.concatenate([mask[has_class], classes.ravel()]), colours)
    return Picture(figure, float(maps.amax(-1).mean()))


def _draw_image(panel: Any, image: np.ndarray, title: str, **style: Any) -> Any:
    """Draw pixels, or values in the colours of a style, under a title, and return what is drawn."""
    panel.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
    panel.set_axis_off()
    return panel.imshow(image, **(style or _GREY))


def _coloured(mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the colours of a mask, uint8 `[height, width, 3]`; black where it has no class."""
    black = np.zeros_like(colours[:1])
    palette = np.concatenate([colours, black])
    return palette[np.where(mask == IGNORED, len(colours), mask)]


def _colours(count: int) -> np.ndarray:
    """Return the colours of so many classes, uint8 `[count, 3]`."""
    from matplotlib import colormaps  # noqa: PLC0415

    numbers = np.arange(count)
    if count <= 20:
        colours = colormaps["tab20"](numbers)
    else:
        colours = colormaps["gist_ncar"](0.05 + 0.9 * numbers / count)
    return (255 * colours[:, :3]).astype(np.uint8)


def _right_text(is_right: np.ndarray) -> str:
    """Return the share of the pixels with a class of which the teacher says that class."""
    if not len(is_right):
        return "no pixel has a class"
    return f"{100 * is_right.mean():.1f} % of the pixels right"


def _draw_classes(figure: Any, view: ShownView, classes: np.ndarray, colours: np.ndarray) -> None:
    """List the classes that some pixels have, those of the most pixels first."""
    counts = np.bincount(classes, minlength=len(view.names))
    most_common = np.argsort(-counts, kind="stable")
    present = [number for number in most_common.tolist() if counts[number]]
    names = [view.name(number) for number in present]
    draw_legend(figure, names, list(colours[present] / 255))
