"""The picture of classification: a view, and the classes that the teacher finds most likely."""

from typing import Any

from kdcache.errors import one_line
from kdcache.tasks.picture import TITLE_SIZE, Picture, ShownView, require_drawable

_TOP = 5
"""Classes in the bars."""
_MOST_CHARS = 40
"""Characters of a name."""


def draw_classification(view: ShownView) -> Picture:
    """Draw a view with its label and the five classes that the teacher finds most likely.

    Raises:
        UsageError: logits of another layout than one row a view.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    require_drawable(view.layout, ["one"])
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panel, bars = figure.subplots(1, 2)
    panel.imshow(view.pixels, cmap="gray")
    panel.set_axis_off()
    target = int(view.labels.first[0])
    label = f"label {target}"
    if target < len(view.names):
        label = f"label: {_shown(view.name(target))}"
    panel.set_title(label, fontsize=TITLE_SIZE, parse_math=False)
    probabilities = view.teacher.probs(1.0)[0]
    top = probabilities.topk(min(_TOP, len(probabilities)))
    names = [_shown(view.name(view.first_class + number)) for number in top.indices.tolist()]
    _draw_bars(bars, names, top.values.tolist())
    return Picture(figure, float(top.values[0]))


def _shown(name: str) -> str:
    return one_line(name, _MOST_CHARS)


def _draw_bars(panel: Any, names: list[str], probabilities: list[float]) -> None:
    places = range(len(names))
    bars = panel.barh(places, probabilities, color="#0072b2")
    panel.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    panel.set_yticks(places, names, parse_math=False)
    panel.set_xlim(0, 1.15)
    panel.invert_yaxis()
    panel.set_title("the teacher's probabilities", fontsize=TITLE_SIZE)
    panel.spines[["top", "right"]].set_visible(False)
