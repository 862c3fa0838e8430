"""Pictures, drawn by matplotlib (extra `plot`)."""

import io
import itertools
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from kdcache.errors import KdcacheError, UsageError
from kdcache.runtime.files import write_file

_FORMATS = (".pdf", ".png", ".svg")
_STYLES: dict[str, dict[str, Any]] = {  # colours of Okabe and Ito, which everybody can tell apart
    "cosine": {"color": "#cc79a7", "marker": "v"},
    "full": {"color": "#000000", "marker": "s"},
    "lowrank": {"color": "#0072b2", "marker": "o"},
    "topk": {"color": "#d55e00", "marker": "^"},
}
_LABELS: dict[str, dict[str, Any]] = {
    "cosine": {"xytext": (-5, -9), "ha": "right"},
    "full": {"xytext": (-4, 6), "ha": "right"},
    "lowrank": {"xytext": (-5, -9), "ha": "right"},
    "topk": {"xytext": (3, 5), "ha": "left"},
}
_OTHER: dict[str, Any] = {"color": "#009e73", "marker": "D"}
_OTHER_LABEL: dict[str, Any] = {"xytext": (3, 5), "ha": "left"}


def check_plot(path: str | Path) -> None:
    """Check that a plot can be drawn into `path`, before the work that it shows.

    Raises:
        KdcacheError: matplotlib is not installed.
        UsageError: another format, or a folder that does not exist.
    """
    require_matplotlib()
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(
            f"plot {path} has no known format; end its name in one of {', '.join(_FORMATS)}"
        )
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"plot {path}: folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"plot {path}: folder {folder} cannot be written; choose another")


def require_matplotlib() -> None:
    """Raise a KdcacheError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise KdcacheError("plots need matplotlib; pip install 'kdcache[plot]'")


def plot_codec_error(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw what `measure_codec_error` returned: bytes per view against the error of DIST's
    gradient, a panel per case.

    Raises:
        KdcacheError: matplotlib is not installed, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # noqa: PLC0415

    cases = list(itertools.product(result["batch_sizes"], result["taus"]))
    figure = Figure(figsize=(5.4 * len(cases) + 0.6, 5.2), layout="constrained")
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    lowest = _lowest(result)
    for panel, (size, tau) in zip(panels, cases, strict=True):
        _draw(panel, result["codecs"], size, tau, lowest)
        panel.set_title(f"tau {tau:g}, batches of {size}", fontsize=10)
        panel.set_xlabel("bytes per view, as stored")
    panels[0].set_ylabel("error of DIST's gradient")
    panels[0].legend(
        frameon=False, loc="lower left", title="filled: on the front", alignment="left"
    )
    figure.suptitle(
        f"What codecs cost: {result['measured_on']:,} views, {result['classes']:,} classes",
        fontsize=11,
    )
    save_figure(figure, path, dpi=150)


def save_figure(figure: Any, path: str | Path, *, dpi: int) -> None:
    """Write a figure whole or not at all, in the format that the file's name ends in.

    Raises:
        KdcacheError: the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format=Path(path).suffix.lower().removeprefix("."))
    write_file(Path(path), content.getvalue())


def _lowest(result: Mapping[str, Any]) -> float:
    """Return where errors of zero are drawn: below all others, of which no smaller one than 1e-4
    counts."""
    least = None
    for cost in result["codecs"]:
        for case in cost["gradients"]:
            error = case["both"]["error"]
            if error > 0 and (least is None or error < least):
                least = error
    if least is None:
        least = 1.0
    return float(max(least, 1e-4) / 2)


def _error(cost: Mapping[str, Any], size: int, tau: float) -> float:
    """Return the error of a codec at a batch size and a temperature."""
    for case in cost["gradients"]:
        if case["batch_size"] == size and case["tau"] == tau:
            return float(case["both"]["error"])
    raise AssertionError


class _Point(NamedTuple):
    """A codec in a panel."""

    bytes: float
    error: float
    is_on_front: bool
    label: str


def _draw(
    panel: Any, costs: Sequence[Mapping[str, Any]], size: int, tau: float, lowest: float
) -> None:
    """Draw all codecs at a batch size and a temperature into a panel."""
    families: dict[str, list[_Point]] = {}
    for cost in costs:
        family, _, setting = cost["codec"].partition(":")
        error = _error(cost, size, tau)
        point = _Point(cost["bytes"], max(error, lowest), cost["front"], _label(setting, error))
        families.setdefault(family, []).append(point)
    for family, points in families.items():
        _draw_family(panel, family, sorted(points))
    _dress(panel)


def _draw_family(panel: Any, family: str, points: Sequence[_Point]) -> None:
    """Draw the line of a family of codecs, and each of its points with a label."""
    style = _STYLES.get(family, _OTHER)
    colour = style["color"]
    sizes = [point.bytes for point in points]
    errors = [point.error for point in points]
    panel.plot(sizes, errors, color=colour, linewidth=1, alpha=0.5)
    place = _LABELS.get(family, _OTHER_LABEL)
    right, up = place["xytext"]
    previous_error = None
    for point in points:
        face = "white"
        if point.is_on_front:
            face = colour
        panel.plot(point.bytes, point.error, **style, markerfacecolor=face, markersize=6)
        height = up
        if point.error == previous_error:
            # as exact ones are: their labels would lie on each other
            height = -2 * up
        panel.annotate(
            point.label,
            (point.bytes, point.error),
            xytext=(right, height),
            ha=place["ha"],
            color=colour,
            textcoords="offset points",
            fontsize=7,
        )
        previous_error = point.error
    panel.plot([], [], **style, linewidth=1, label=family)


def _dress(panel: Any) -> None:
    """Give a panel its axes and its grid."""
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.margins(x=0.08, y=0.08)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")
    panel.grid(True, which="major", linewidth=0.4, alpha=0.5)
    panel.spines[["top", "right"]].set_visible(False)


def _label(setting: str, error: float) -> str:
    """Return the setting in short, and the error where the axis cannot show it."""
    value = setting.removeprefix("dtype=")
    if error > 0:
        return value
    return f"{value}: exact"
