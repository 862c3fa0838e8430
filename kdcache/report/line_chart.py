"""Curves over epochs, with a band each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kdcache.errors import one_line
from kdcache.report.estimates import Estimate
from kdcache.report.svg import (
    CHAR_WIDTH,
    NUM_COLOURS,
    Element,
    Scale,
    add,
    add_mark,
    canvas,
    markup,
    path_of,
    spread,
    style_class,
    ticks,
)
from kdcache.report.wording import with_error

_MOST_POINTS = 300
_MOST_TITLES = 100
"""Points of a line that say their value when they are pointed at."""
_LINE_HEIGHT = 15.0
_MOST_LABEL = 34
_EARLY = 0.25
"""Share of the epochs whose values need not fit on the axis: they would flatten all others."""
_TOP = 14.0
_BOTTOM = 38.0
_LEFT = 30.0
"""Pixels beside the axis, without the numbers there."""
_RIGHT = 12.0
"""Pixels on the other side, where no names stand."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    name: str
    style: int
    """Which of the page's colours and marks it has."""
    curve: Mapping[int, Estimate]
    """By epoch."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What is up and down in a chart."""

    title: str
    """With its unit."""
    decimals: int = 2
    """Of the values that points say."""
    has_early: bool = False
    """Whether the axis fits the values of the first epochs too."""


def line_chart(
    lines: Sequence[Line], axis: Axis, *, width: int, height: int, has_labels: bool
) -> Markup:
    """Return the picture of some curves.

    Args:
        lines: those that have a point, at least one.
        axis: of the values.
        width: pixels of the whole picture.
        height: likewise.
        has_labels: whether the lines' names stand at their ends.
    """
    names = ", ".join(line.name for line in lines)
    root = canvas(width, height, f"{axis.title} by epoch: {names}")
    labels = [one_line(line.name, _MOST_LABEL) for line in lines]
    right = _RIGHT
    if has_labels:
        right = CHAR_WIDTH * max(map(len, labels)) + 16
    plane = _plane(lines, axis, width=width, height=height, right=right)
    _draw_axes(root, plane, axis)
    plot = _add_window(root, plane)
    for line in lines:
        _draw_band(plot, plane, line)
    for line in lines:
        _draw_line(plot, plane, line, axis)
    for line in lines:
        add_mark(root, line.style, *_end(plane, line))
    if has_labels:
        _draw_labels(root, plane, lines, labels)
    return markup(root)


@dataclass(frozen=True, kw_only=True)
class _Plane:
    """Where epochs and values lie in a picture."""

    across: Scale
    """Of epochs."""
    down: Scale
    """Of values, the highest of which is at the top."""

    def at(self, epoch: float, value: float) -> tuple[float, float]:
        """Return the pixel of a value at an epoch."""
        return self.across(epoch), self.down(value)


def _plane(
    lines: Sequence[Line], axis: Axis, *, width: float, height: float, right: float
) -> _Plane:
    """Return the plane that some curves fit on, with `right` pixels beside it."""
    first_epoch = min(min(line.curve) for line in lines)
    last_epoch = max(max(line.curve) for line in lines)
    low, high = _bounds(lines, axis, first_epoch, last_epoch)
    down = Scale(low, high, height - _BOTTOM, _TOP)
    numbers = [f"{value:g}" for value in _value_ticks(down)]
    left = _LEFT + CHAR_WIDTH * max(map(len, numbers))
    return _Plane(across=Scale(first_epoch, last_epoch, left, width - right), down=down)


def _bounds(
    lines: Sequence[Line], axis: Axis, first_epoch: int, last_epoch: int
) -> tuple[float, float]:
    """Return the lowest and the highest value of the axis, with a margin."""
    early = first_epoch + _EARLY * (last_epoch - first_epoch)
    values: list[float] = []
    for line in lines:
        last = max(line.curve)
        for epoch, point in line.curve.items():
            if axis.has_early or epoch >= early or epoch == last:
                values += point.band
    low = min(values)
    high = max(values)
    margin = 0.05 * (high - low) or max(abs(high) * 0.05, 0.5)
    if low >= 0:
        return max(low - margin, 0.0), high + margin
    return low - margin, high + margin


def _value_ticks(down: Scale) -> list[float]:
    """Return the values that stand beside the axis."""
    return ticks(down.low, down.high, 5)


def _draw_axes(root: Element, plane: _Plane, axis: Axis) -> None:
    across = plane.across
    down = plane.down
    for value in _value_ticks(down):
        y = down(value)
        add(root, "line", x1=across.start, x2=across.stop, y1=y, y2=y, class_="grid")
        add(root, "text", f"{value:g}", x=across.start - 6, y=y + 4, class_="tick end")
    for epoch in ticks(across.low, across.high, 6):
        if epoch == round(epoch):
            x = across(epoch)
            add(root, "text", f"{epoch:g}", x=x, y=down.start + 16, class_="tick middle")
    add(root, "line", x1=across.start, x2=across.stop, y1=down.start, y2=down.start, class_="axis")
    _draw_titles(root, plane, axis)


def _draw_titles(root: Element, plane: _Plane, axis: Axis) -> None:
    """Draw what is across below the epochs, and what is up and down beside the values, turned."""
    middle = (plane.across.start + plane.across.stop) / 2
    y = plane.down.start + 32
    add(root, "text", "epoch", x=middle, y=y, class_="title middle")
    middle = (plane.down.start + plane.down.stop) / 2
    turned = f"translate(12 {middle:.1f}) rotate(-90)"
    add(root, "text", axis.title, x=0, y=0, class_="title middle", transform=turned)


def _add_window(root: Element, plane: _Plane) -> Element:
    """Return a picture inside, with the same pixels, that cuts off what is outside the axes."""
    across = plane.across
    down = plane.down
    x = across.start
    y = down.stop - 6
    width = max(across.stop - across.start, 0.0) + 6
    height = down.start - down.stop + 6
    box = f"{x:.1f} {y:.1f} {width:.1f} {height:.1f}"
    return add(root, "svg", x=x, y=y, width=width, height=height, viewBox=box)


def _draw_band(plot: Element, plane: _Plane, line: Line) -> None:
    """Draw one standard error on both sides of a line; single runs have none."""
    if not any(point.error for point in line.curve.values()):
        return
    upper: list[tuple[float, float]] = []
    lower: list[tuple[float, float]] = []
    for epoch, point in _thinned(line.curve).items():
        low, high = point.band
        upper.append(plane.at(epoch, high))
        lower.append(plane.at(epoch, low))
    outline = path_of([*upper, *reversed(lower)]) + "Z"
    add(plot, "path", d=outline, class_=f"band {style_class(line.style)}")


def _draw_line(plot: Element, plane: _Plane, line: Line, axis: Axis) -> None:
    """Draw a line and, if it has few points, what each of them says when it is pointed at."""
    curve = _thinned(line.curve)
    points = [plane.at(epoch, point.mean) for epoch, point in curve.items()]
    css = f"line {style_class(line.style)}"
    if line.style >= NUM_COLOURS:
        css += " dashed"
    add(plot, "path", d=path_of(points), class_=css)
    if len(curve) > _MOST_TITLES:
        return
    for (x, y), (epoch, point) in zip(points, curve.items(), strict=True):
        value = with_error(point, axis.decimals)
        dot = add(plot, "circle", cx=x, cy=y, r=6, class_="hover")
        add(dot, "title", f"{line.name}, epoch {epoch}: {value}")


def _draw_labels(
    root: Element, plane: _Plane, lines: Sequence[Line], labels: Sequence[str]
) -> None:
    """Draw the name of each line beside its end, where it touches no other."""
    ends = [_end(plane, line)[1] for line in lines]
    heights = spread(ends, _LINE_HEIGHT, _TOP, plane.down.start)
    for line, label, y in zip(lines, labels, heights, strict=True):
        css = f"name {style_class(line.style)}"
        add(root, "text", label, x=plane.across.stop + 10, y=y + 4, class_=css)


def _end(plane: _Plane, line: Line) -> tuple[float, float]:
    """Return the pixel of a line's last point."""
    last = max(line.curve)
    return plane.at(last, line.curve[last].mean)


def _thinned(curve: Mapping[int, Estimate]) -> dict[int, Estimate]:
    """Return some hundred points of a longer curve, the last one among them."""
    epochs = sorted(curve)
    stride = -(-len(epochs) // _MOST_POINTS)
    drawn = epochs[::stride]
    if epochs and drawn[-1] != epochs[-1]:
        drawn.append(epochs[-1])
    return {epoch: curve[epoch] for epoch in drawn}
