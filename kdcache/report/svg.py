"""What all charts are drawn with: elements, scales, ticks, marks. The colours are the page's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from kdcache.errors import printable

NUM_COLOURS = 8
"""Colours of lines that the page has; later lines are dashed."""
CHAR_WIDTH = 6.3
"""Pixels that a character of a chart takes, about."""
Element = ElementTree.Element


@dataclass(frozen=True)
class Scale:
    """A linear way from values to pixels."""

    low: float
    high: float
    start: float
    """The pixel of `low`."""
    stop: float
    """The pixel of `high`."""

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.stop - self.start)


def canvas(width: float, height: float, label: str) -> Element:
    """Return an empty picture, which readers of screens are told `label` of."""
    return ElementTree.Element(
        "svg",
        {
            "viewBox": f"0 0 {_text(width)} {_text(height)}",
            "width": _text(width),
            "height": _text(height),
            "role": "img",
            "aria-label": printable(label),
        },
    )


def add(parent: Element, tag: str, text: str = "", **attributes: float | str) -> Element:
    """Add an element; an underscore in the name of an attribute stands for a hyphen."""
    texts: dict[str, str] = {}
    for name, value in attributes.items():
        texts[name.rstrip("_").replace("_", "-")] = _text(value)
    element = ElementTree.SubElement(parent, tag, texts)
    if text:
        element.text = printable(text)
    return element


def markup(root: Element) -> Markup:
    """Return a picture as text that a page takes as it is."""
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def style_class(style: int) -> str:
    """Return the class of what is drawn in the colour of a line."""
    return f"c{style % NUM_COLOURS}"


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """Return the path through some pixels."""
    return "M" + "L".join(f"{_text(x)},{_text(y)}" for x, y in points)


def add_mark(parent: Element, style: int, x: float, y: float, title: str = "") -> None:
    """Add the mark of a line at a pixel, of a shape of its own."""
    size = 4.0
    shapes = (
        [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)],
        [(0.0, -1.3), (1.25, 0.95), (-1.25, 0.95)],
        [(0.0, -1.4), (1.4, 0.0), (0.0, 1.4), (-1.4, 0.0)],
    )
    kind = style % (len(shapes) + 1)
    css = f"mark {style_class(style)}"
    if kind == 0:
        mark = add(parent, "circle", cx=x, cy=y, r=size, class_=css)
    else:
        corners = [(x + size * right, y + size * down) for right, down in shapes[kind - 1]]
        mark = add(parent, "path", d=path_of(corners) + "Z", class_=css)
    if title:
        add(mark, "title", title)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers from `low` to `high`."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / max(count, 1)))
    for factor in (1, 2, 5, 10):
        if span / (factor * step) <= count:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places moved a little, so that each is `gap` from the next and inside bounds."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for _ in range(50):
        for index in range(1, len(moved)):
            overlap = gap - (moved[index] - moved[index - 1])
            if overlap > 1e-6:
                moved[index - 1] -= overlap / 2
                moved[index] += overlap / 2
        if moved:
            moved[0] = max(moved[0], low)
            moved[-1] = min(moved[-1], high)
    result = [0.0] * len(places)
    for index, place in zip(order, moved, strict=True):
        result[index] = place
    return result


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")
