"""The parts of a page that are made of scores by class: dots, numbers, confusions, the teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.report.classes import ClassScores
from kdcache.report.dot_chart import Dots, dot_chart
from kdcache.report.estimates import Estimate
from kdcache.report.groups import Group
from kdcache.report.score_sections import NARROW, WIDE, Section
from kdcache.report.wording import NONE, number, with_error
from kdcache.tasks.score_names import class_score_title

_MOST_DRAWN = 30
"""Classes in a chart."""
_MOST_ROWS = 1000
"""Classes in a table."""
_MOST_IN_MATRIX = 20
_MOST_PAIRS = 20
_DARKEST = 0.75
"""Opacity of a cell in which all samples are."""


def class_section(
    groups: Sequence[Group], scores: Mapping[str, ClassScores], *, could_evaluate: bool
) -> Section:
    """Return the chart and the table of scores by class.

    Args:
        groups: all of them, the reference first.
        scores: by the name of a group.
        could_evaluate: whether --evaluate would give more of them.
    """
    if not scores:
        return {"figures": [], "rows": [], "caption": ""}
    classes = _lowest_first(scores)
    titles: dict[str, None] = {}
    for group_scores in scores.values():
        titles[class_score_title([f"{group_scores.kind}/"])] = None
    kind = " or ".join(titles)
    dots: list[Dots] = []
    for style, group in enumerate(groups):
        if group.name in scores:
            values = scores[group.name].values
            dots.append(Dots(name=group.name, style=style, values=values))
    shown = classes[:_MOST_DRAWN]
    figure = {
        "title": "",
        "caption": "",
        "legend": [],
        "wide": dot_chart(dots, shown, f"{kind} (%)", width=WIDE),
        "narrow": dot_chart(dots, shown, f"{kind} (%)", width=NARROW),
    }
    weights = _weights_text(groups, scores, could_evaluate=could_evaluate)
    caption = f"{weights} The lowest class of the first line is on top."
    if len(classes) > len(shown):
        caption += f" The lowest {len(shown)} of {len(classes)} classes are drawn."
    caption += _calibration_text(groups, scores)
    rows: list[Section] = []
    for name in classes[:_MOST_ROWS]:
        cells = [_class_cell(scores.get(group.name), name) for group in groups]
        rows.append({"name": name, "cells": cells})
    return {"figures": [figure], "rows": rows, "caption": caption}


def _weights_text(
    groups: Sequence[Group], scores: Mapping[str, ClassScores], *, could_evaluate: bool
) -> str:
    """Return of which weights the scores are, and how those of the best weights are had."""
    recorded: list[str] = []
    for group in groups:
        if group.name in scores and not scores[group.name].is_evaluated:
            recorded.append(group.name)
    if not recorded:
        return "Of the best weights of each run, evaluated for this page."
    if len(recorded) == len(scores):
        text = "Of the weights of the last epoch, as the runs recorded them"
    else:
        text = (
            "Of the best weights of each run, evaluated for this page; of"
            f" {', '.join(recorded)} of those of the last epoch, as recorded"
        )
    if not could_evaluate:
        return f"{text}."
    return (
        f"{text}: to find maps and boxes in all images again can take hours on a CPU."
        " kdcache report --evaluate does it, for the best weights."
    )


def _lowest_first(scores: Mapping[str, ClassScores]) -> list[str]:
    """Return all classes by the score of the first group that has them."""
    values: dict[str, float] = {}
    for group_scores in scores.values():
        for name, value in group_scores.values.items():
            values.setdefault(name, value.mean)
    return sorted(values, key=lambda name: values[name])


def _class_cell(scores: ClassScores | None, name: str) -> str:
    if scores is None:
        return NONE
    return with_error(scores.values.get(name))


def _calibration_text(groups: Sequence[Group], scores: Mapping[str, ClassScores]) -> str:
    texts: list[str] = []
    for group in groups:
        group_scores = scores.get(group.name)
        if group_scores is not None and group_scores.calibration is not None:
            texts.append(f"{group.name} {with_error(group_scores.calibration)} %")
    if not texts:
        return ""
    return f" Calibration error (15 bins): {'; '.join(texts)}."


def confusion_section(groups: Sequence[Group], scores: Mapping[str, ClassScores]) -> Section:
    """Return which classes are taken for which: whole tables of few classes, of many the most
    frequent pairs."""
    if not any(group_scores.confusions for group_scores in scores.values()):
        return {"matrices": [], "pairs": []}
    names: dict[str, None] = {}
    for group in groups:
        if group.name in scores:
            names |= dict.fromkeys(scores[group.name].values)
    classes = list(names)
    if len(classes) > _MOST_IN_MATRIX:
        return _pairs_section(groups, scores)
    matrices: list[Section] = []
    for style, group in enumerate(groups):
        if group.name in scores:
            rows = [_matrix_row(scores[group.name], name, classes) for name in classes]
            matrices.append({"name": group.name, "style": style, "rows": rows})
    caption = (
        "Rows are labels, columns answers: percent of the samples of a label, means over repeats."
    )
    return {"matrices": matrices, "pairs": [], "classes": classes, "caption": caption}


def _matrix_row(scores: ClassScores, label: str, classes: Sequence[str]) -> Section:
    cells: list[dict[str, Any]] = []
    for answer in classes:
        is_right = answer == label
        share = scores.confusions.get(f"{label} as {answer}", 0.0)
        if is_right and label in scores.values:
            share = scores.values[label].mean
        cell: dict[str, Any] = {"text": "", "shade": "", "is_right": is_right}
        cell["title"] = f"{label} taken for {answer}: {number(share)} %"
        if share > 0:
            cell["text"] = _cell_text(share)
            cell["shade"] = f"{_shade(share, is_right=is_right):.2f}"
        cells.append(cell)
    return {"name": label, "cells": cells}


def _cell_text(share: float) -> str:
    if share < 0.95:
        return f"{share:.1f}".removeprefix("0")
    return f"{share:.0f}"


def _shade(share: float, *, is_right: bool) -> float:
    """Return how dark a cell is; mistakes are few, and darken five times as fast."""
    if is_right:
        return 0.12
    return min(0.06 + 5 * share / 100, 1.0) * _DARKEST


def _pairs_section(groups: Sequence[Group], scores: Mapping[str, ClassScores]) -> Section:
    largest: dict[str, float] = {}
    for group_scores in scores.values():
        for pair, share in group_scores.confusions.items():
            largest[pair] = max(largest.get(pair, 0.0), share)
    order = sorted(largest, key=lambda pair: -largest[pair])
    rows: list[Section] = []
    for pair in order[:_MOST_PAIRS]:
        cells: list[str] = []
        for group in groups:
            cells.append(_pair_cell(scores.get(group.name), pair))
        rows.append({"name": pair, "cells": cells})
    caption = (
        "Percent of the samples of a class that are taken for another, means over repeats: the"
        f" {len(rows)} pairs with the largest share in any line."
    )
    return {"matrices": [], "pairs": rows, "caption": caption}


def _pair_cell(scores: ClassScores | None, pair: str) -> str:
    if scores is None or pair not in scores.confusions:
        return NONE
    return number(scores.confusions[pair])


def teacher_figure(
    confidence: Mapping[str, Estimate], accuracy: Mapping[str, Estimate]
) -> Section | None:
    """Return the chart of the teacher's confidence and accuracy by class; None where they are not
    known."""
    if not confidence:
        return None
    classes = sorted(accuracy, key=lambda name: accuracy[name].mean)[:_MOST_DRAWN]
    dots = [
        Dots(name="accuracy", style=1, values=accuracy),
        Dots(name="confidence", style=2, values=confidence),
    ]
    num_views = sum(value.count for value in accuracy.values())
    caption = (
        f"Means over {num_views:,} training views of the first cache, \u00b1 standard error, by the"
        " label. The teacher is overconfident where its confidence lies right of its accuracy."
    )
    if len(accuracy) > len(classes):
        caption += f" The lowest {len(classes)} of {len(accuracy)} classes are drawn."
    title = "percent"
    return {
        "title": "The teacher's accuracy and confidence by class",
        "legend": [{"name": line.name, "style": line.style} for line in dots],
        "wide": dot_chart(dots, classes, title, width=WIDE),
        "narrow": dot_chart(dots, classes, title, width=NARROW),
        "caption": caption,
    }
