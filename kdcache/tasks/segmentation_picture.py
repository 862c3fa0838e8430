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
    target = np.where(has_class[:, :, None], colours[np.where(has_class, mask, 0)], 0)
    about_teacher = "its own classes"
    if not view.first_class:
        about_teacher = _right_text((classes == mask)[has_class])
    figure = Figure(figsize=(11, 1.6 + 10 * height / width), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    images = (view.pixels, target, colours[classes])
    who = one_line(view.who, _MOST_CHARS)
    titles = ("view", "mask (black: no class)", f"{who}: {about_teacher}")
    for panel, image, title in zip(panels[:3], images, titles, strict=True):
        panel.imshow(image, cmap="gray")
        panel.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
    heat = panels[3].imshow(confidences.numpy(), vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(heat, ax=panels[3], shrink=0.8)
    panels[3].set_title(f"confidence of {who}", fontsize=TITLE_SIZE, parse_math=False)
    for panel in panels:
        panel.set_axis_off()
    _draw_classes(figure, view, np.concatenate([mask[has_class], classes.ravel()]), colours)
    return Picture(figure, float(maps.amax(-1).mean()))


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
