"""What the pictures of all tasks are drawn from and with (extra `plot`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kdcache.errors import UsageError, one_line
from kdcache.positions import Layout
from kdcache.shapes import Detections, Labels
from kdcache.soft_targets import SoftTargets

TEACHER = "teacher"
"""Who says what a cache holds."""
TITLE_SIZE = 10
"""Points of the text above a panel."""
_MOST_LISTED = 24
_MOST_COLUMNS = 6
_MOST_CHARS = 40
"""Classes in a legend, its columns, and characters of a name in it."""
_LINE_CHARS = 130
"""Characters beside each other in a legend."""


@dataclass(frozen=True, eq=False)
class ShownView:
    """A view of a cache, what is right of it and what the teacher says of it."""

    pixels: np.ndarray
    """Uint8 `[height, width, channels]`."""
    labels: Labels
    """Of this view alone."""
    teacher: SoftTargets
    """Of this view alone."""
    layout: Layout
    """What the positions of the teacher's logits are."""
    names: Sequence[str]
    """Of the data's classes, and behind them of the teacher's where it has its own."""
    first_class: int
    """Where the teacher's classes begin among the names: 0 if they are those of the data."""
    who: str = TEACHER
    """Who says what is drawn as the teacher's; a student has the name of its line."""
    detections: Detections | None = None
    """The boxes that a student finds, on the CPU; of a teacher a cache holds none."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width

    def owned(self, noun: str) -> str:
        """Return whose something is, such as `the teacher's score`."""
        if self.who == TEACHER:
            return f"the teacher's {noun}"
        return f"the {noun} of {one_line(self.who, _MOST_CHARS)}"

    def name(self, number: int) -> str:
        """Return the name of a class; its number where it has none."""
        if number < len(self.names):
            return self.names[number]
        return str(number)


class Picture(NamedTuple):
    """A view as its task has drawn it."""

    figure: Any
    """Of matplotlib."""
    confidence: float
    """The probability of the class that the teacher finds most likely: of maps the mean over
    pixels, of a detector the largest at any position."""


def require_drawable(layout: Layout, kinds: Sequence[str]) -> None:
    """Raise a UsageError if a layout is of none of some kinds, or of maps of several sizes."""
    has_one_size = layout.kind != "heads" or layout.maps
    if layout.kind not in kinds or not has_one_size:
        raise UsageError(
            f"the cache holds logits of {layout.kind}, which cannot be drawn; one row a view can,"
            " maps of one size, levels of a pyramid, and proposals"
        )


def draw_legend(figure: Any, names: Sequence[str], colours: Sequence[Any]) -> int:
    """List classes below the panels, the first ones of many, and how many more there are; return
    how many lines that takes."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    texts = []
    patches = []
    for name, colour in zip(names[:_MOST_LISTED], colours, strict=False):
        texts.append(one_line(name, _MOST_CHARS))
        patches.append(Patch(color=colour))
    if len(names) > _MOST_LISTED:
        texts.append(f"and {len(names) - _MOST_LISTED} more")
        patches.append(Patch(color="none"))
    if not texts:
        return 0
    longest = max(map(len, texts))
    num_columns = min(_MOST_COLUMNS, max(_LINE_CHARS // (longest + 6), 1), len(texts))
    # a name that begins with an underscore would not be listed
    places = [str(place) for place in range(len(texts))]
    legend = figure.legend(
        patches,
        places,
        loc="outside lower center",
        ncols=num_columns,
        frameon=False,
        fontsize=9,
    )
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_parse_math(False)
        entry.set_text(text)
    return -(-len(texts) // num_columns)
