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
    bottom = height - _BOTTOM
    most_ticks = 4
    if width > _NARROW:
        most_ticks = 6
    for value in ticks(low, high, most_ticks):
        x = across(value)
        add(root, "line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid")
        add(root, "text", f"{value:g}", x=x, y=bottom + 16, class_="tick middle")
    middle = (across.start + across.stop) / 2
    add(root, "text", title, x=middle, y=bottom + 32, class_="title middle")
    for row, name in enumerate(classes):
        y = _TOP + row_height * (row + 0.5)
        label = add(
            root, "text", one_line(name, label_chars), x=left - 8, y=y + 4, class_="tick end"
        )
        label.set("data-full", one_line(name, 200))
        add(root, "line", x1=across.start, x2=across.stop, y1=y, y2=y, class_="grid faint")
        _draw_row(root, dots, name, across, y)
    return markup(root)


def _bounds(dots: Sequence[Dots]) -> tuple[float, float]:
    lows: list[float] = []
    for line in dots:
        for value in line.values.values():
            lows.append(value.mean - (value.error or 0.0))
    low = min(lows, default=0.0)
    return max(min(low - 2, 95.0), 0.0), 100.0


def _draw_row(root: Element, dots: Sequence[Dots], name: str, across: Scale, y: float) -> None:
    """Draw the marks of a class, each with a line as long as its standard error on both sides."""
    for place, line in enumerate(dots):
        value = line.values.get(name)
        if value is None:
            continue
        shift = _SHIFT * (place - (len(dots) - 1) / 2)
        text = f"{line.name}, {name}: {value.mean:.2f} %"
        if value.error is not None:
            text += f" \u00b1 {value.error:.2f}"
            start = across(max(value.mean - value.error, across.low))
            stop = across(min(value.mean + value.error, across.high))
            css = f"whisker {style_class(line.style)}"
            add(root, "line", x1=start, x2=stop, y1=y + shift, y2=y + shift, class_=css)
        add_mark(root, line.style, across(value.mean), y + shift, text)
