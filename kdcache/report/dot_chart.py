"""Values by class: a row for each class, a mark for each line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kdcache.errors import one_line
from kdcache.report.estimates import Estimate
from kdcache.report.svg import (
    CHAR_WIDTH,
    Element,
    Scale,
    add,
    add_mark,
    canvas,
    markup,
    style_class,
    ticks,
)
from kdcache.report.wording import with_error

_LEAST_ROW = 22.0
_SHIFT = 5.0
"""Pixels between the lines of a class."""
_NARROW = 500
"""Pixels across which there is room for few numbers."""
_TOP = 8.0
_BOTTOM = 38.0


@dataclass(frozen=True, kw_only=True)
class Dots:
    """The values of one line."""

    name: str
    style: int
    values: Mapping[str, Estimate]
    """By class."""


def dot_chart(dots: Sequence[Dots], classes: Sequence[str], title: str, *, width: int) -> Markup:
    """Return the picture of the values of some classes, in percent, from top to bottom."""
    label_chars = min(max(map(len, classes)), width // 20)
    left = CHAR_WIDTH * label_chars + 16
    row_height = max(_LEAST_ROW, _SHIFT * len(dots) + 12)
    height = _TOP + row_height * len(classes) + _BOTTOM
    names = ", ".join(line.name for line in dots)
    root = canvas(width, height, f"{title} by class: {names}")
    low, high = _bounds(dots)
    across = Scale(low, high, left, width - 14)
    _draw_axis(root, across, title, num_ticks=6 if width > _NARROW else 4, bottom=height - _BOTTOM)
    for row, name in enumerate(classes):
        y = _TOP + row_height * (row + 0.5)
        _draw_name(root, name, label_chars, across, y)
        _draw_marks(root, dots, name, across, y)
    return markup(root)


def _draw_axis(root: Element, across: Scale, title: str, *, num_ticks: int, bottom: float) -> None:
    """Draw the values below the classes, each with a line through all of them."""
    for value in ticks(across.low, across.high, num_ticks):
        x = across(value)
        add(root, "line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid")
        add(root, "text", f"{value:g}", x=x, y=bottom + 16, class_="tick middle")
    middle = (across.start + across.stop) / 2
    add(root, "text", title, x=middle, y=bottom + 32, class_="title middle")


def _draw_name(root: Element, name: str, most_chars: int, across: Scale, y: float) -> None:
    """Draw the name of a class, which is whole where it is pointed at, and the line of its row."""
    text = one_line(name, most_chars)
    label = add(root, "text", text, x=across.start - 8, y=y + 4, class_="tick end")
    label.set("data-full", one_line(name, 200))
    add(root, "line", x1=across.start, x2=across.stop, y1=y, y2=y, class_="grid faint")


def _bounds(dots: Sequence[Dots]) -> tuple[float, float]:
    """Return the lowest and the highest percentage of the axis, at least 5 apart."""
    lows: list[float] = []
    for line in dots:
        for value in line.values.values():
            low, _ = value.band
            lows.append(low)
    lowest = min(lows, default=0.0)
    return max(min(lowest - 2, 95.0), 0.0), 100.0


def _draw_marks(root: Element, dots: Sequence[Dots], name: str, across: Scale, y: float) -> None:
    """Draw the marks of a class around the middle of its row."""
    top = y - _SHIFT * (len(dots) - 1) / 2
    for place, line in enumerate(dots):
        _draw_mark(root, line, name, across, top + _SHIFT * place)


def _draw_mark(root: Element, line: Dots, name: str, across: Scale, y: float) -> None:
    """Draw the mark of a class that a line has a value of, and through it a line as long as the
    standard error on both sides."""
    value = line.values.get(name)
    if value is None:
        return
    if value.error is not None:
        low, high = value.band
        start = across(max(low, across.low))
        stop = across(min(high, across.high))
        css = f"whisker {style_class(line.style)}"
        add(root, "line", x1=start, x2=stop, y1=y, y2=y, class_=css)
    text = f"{line.name}, {name}: {with_error(value)} %"
    add_mark(root, line.style, across(value.mean), y, text)
