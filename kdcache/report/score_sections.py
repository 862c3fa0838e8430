"""The parts of a page that are made of what runs have written: scores, curves, parts of the loss,
settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.config.differences import flat_settings
from kdcache.report.comparison import (
    difference_from,
    leading_score,
    unlike_conditions,
    unlike_note,
)
from kdcache.report.groups import Group
from kdcache.report.line_chart import Axis, Line, line_chart
from kdcache.report.wording import NONE, number, signed, with_error
from kdcache.runtime.wording import counted, human_bytes, human_rate, human_seconds
from kdcache.tasks.score_names import percent_scores, title_of
from kdcache.train.differences import FREE

Section = dict[str, Any]
"""What the template takes of a section."""
WIDE = 1080
NARROW = 340
_HALF = 520
_PANEL = 360
_FEW = 3
"""Pairs whose signs say something."""


@dataclass
class Cell:
    """A cell of a table."""

    text: str
    small: str = ""
    """What stands below it."""
    css: str = ""
    """Its class."""


def score_table(groups: Sequence[Group], reference: Group) -> Section:
    """Return the table of scores, a row for each group."""
    score = leading_score(groups)
    columns = ["runs"]
    others: list[str] = []
    if score is not None:
        others = [name for name in _result_scores(groups) if name != score]
        columns += [
            f"{title_of(score)}, last epoch (%)",
            f"against {reference.name}",
            f"{title_of(score)}, best epoch (%)",
            *[f"{title_of(name)} (%)" for name in others],
        ]
        if _has_losses(groups):
            columns.append("loss on evaluation data")
    columns += ["training time", "views/s", "peak memory"]
    rows: list[Section] = []
    for style, group in enumerate(groups):
        cells = [_runs_cell(group)]
        if score is not None:
            cells += _score_cells(group, reference, score, others)
            if _has_losses(groups):
                cells.append(Cell(with_error(group.estimate("eval_loss"), 4)))
        cells += _cost_cells(group)
        rows.append({"name": group.name, "style": style, "cells": cells})
    return {
        "columns": columns,
        "rows": rows,
        "caption": _table_caption(score),
        "notes": _table_notes(groups, score),
    }


def _table_caption(score: str | None) -> str:
    if score is None:
        return "Means over repeats, runs that differ in nothing but run_seed and order_seed."
    return (
        "Mean \u00b1 standard error over repeats: runs that differ in nothing but run_seed and"
        " order_seed. Differences are taken in pairs of the same seeds, and coloured where"
        " three or more pairs all have the same sign. The best epoch is chosen on the"
        " evaluation data itself, so its score is a little too high. Runs that trained side by"
        " side have the time and memory of all together."
    )


def _table_notes(groups: Sequence[Group], score: str | None) -> list[str]:
    notes: list[str] = []
    num_unfinished = 0
    for group in groups:
        num_unfinished += len(group.runs) - len(group.finished)
    if num_unfinished:
        verb = "are"
        if num_unfinished == 1:
            verb = "is"
        notes.append(
            f"{counted(num_unfinished, 'run')} {verb} not finished; the table leaves them out, the"
            " curves show the epochs that are there."
        )
    note = unlike_note(groups)
    if note:
        notes.append(note)
    if score is None:
        notes.append("No run has scores: none was given evaluation data, or no epoch has ended.")
    elif any(len(group.finished) == 1 for group in groups):
        notes.append("A line with one run has no standard error: its difference may be chance.")
    return notes


def _result_scores(groups: Sequence[Group]) -> list[str]:
    names: dict[str, None] = {}
    for group in groups:
        for run in group.finished:
            names |= dict.fromkeys(run.result or {})
    return percent_scores(names)


def _has_losses(groups: Sequence[Group]) -> bool:
    """Return whether a result tells a loss on the evaluation data; those of detection do not."""
    return any(group.values("eval_loss") for group in groups)


def _runs_cell(group: Group) -> Cell:
    text = str(len(group.finished))
    if len(group.finished) == len(group.runs):
        return Cell(text)
    return Cell(text, f"of {len(group.runs)}")


def _score_cells(group: Group, reference: Group, score: str, others: Sequence[str]) -> list[Cell]:
    main = group.estimate(score)
    main_cell = Cell(with_error(main))
    if main is not None and main.count > 1:
        main_cell.small = f"{number(main.low)} to {number(main.high)}"
    cells = [main_cell, _difference_cell(group, reference, score)]
    cells.append(Cell(with_error(group.estimate(f"best_{score}"))))
    for name in others:
        cells.append(Cell(with_error(group.estimate(name))))
    return cells


def _difference_cell(group: Group, reference: Group, score: str) -> Cell:
    if group is reference:
        return Cell("reference")
    conditions = unlike_conditions(group, reference)
    if conditions:
        return Cell(NONE, f"other {' and '.join(conditions)}")
    difference = difference_from(group, reference, score)
    if difference is None:
        return Cell(NONE, "no seeds in common")
    count = difference.estimate.count
    cell = Cell(signed(difference))
    cell.small = f"higher in {difference.num_higher} of {counted(count, 'pair')}"
    if count >= _FEW and difference.num_higher == count:
        cell.css = "up"
    elif count >= _FEW and difference.estimate.high < 0:
        cell.css = "down"
    return cell


def _cost_cells(group: Group) -> list[Cell]:
    seconds = group.estimate("seconds")
    rate = group.estimate("views_per_second")
    memory: list[float] = []
    for run in group.finished:
        peaks = (run.result or {}).get("peak_memory")
        if isinstance(peaks, Mapping):
            memory += [float(peak) for peak in peaks.values() if isinstance(peak, int | float)]
    cells = [Cell(NONE), Cell(NONE), Cell(NONE)]
    if seconds is not None:
        cells[0].text = human_seconds(seconds.mean)
    if rate is not None:
        cells[1].text = human_rate(rate.mean)
    if memory:
        cells[2].text = human_bytes(max(memory))
    return cells


def curves(groups: Sequence[Group]) -> Section:
    """Return the charts over epochs: of the leading score, and of losses."""
    score = leading_score(groups)
    section: Section = {"figures": [], "halves": [], "notes": [], "caption": _band_text(groups)}
    if score is not None:
        lines = lines_of(groups, score)
        if lines:
            axis = Axis(title=f"{title_of(score)} (%)")
            title = f"{title_of(score)} on the evaluation data"
            section["figures"].append(_figure(title, lines, axis, width=WIDE, height=400))
    for name, title in (
        ("loss", "Loss in training (of unlike losses not comparable)"),
        ("eval_loss", "Loss on the evaluation data"),
    ):
        lines = lines_of(groups, name)
        if lines:
            axis = Axis(title="loss", decimals=4)
            section["halves"].append(_figure(title, lines, axis, width=_HALF, height=260))
    if not section["halves"]:
        section["notes"].append("There are no curves yet: no run has ended an epoch.")
    return section


def _figure(title: str, lines: Sequence[Line], axis: Axis, *, width: int, height: int) -> Section:
    """Return a chart in two sizes; names stand at lines only where there is room."""
    has_labels = width == WIDE
    return {
        "title": title,
        "legend": [],
        "caption": "",
        "wide": line_chart(lines, axis, width=width, height=height, has_labels=has_labels),
        "narrow": line_chart(lines, axis, width=NARROW, height=270, has_labels=False),
    }


def lines_of(groups: Sequence[Group], name: str) -> list[Line]:
    """Return the curves of a number, of those groups that have it."""
    lines: list[Line] = []
    for style, group in enumerate(groups):
        curve = group.curve(name)
        if curve:
            lines.append(Line(name=group.name, style=style, curve=curve))
    return lines


def _band_text(groups: Sequence[Group]) -> str:
    axes = " What the first epochs show may lie outside the axes."
    if all(len(group.runs) == 1 for group in groups):
        return f"One run a line.{axes}"
    return f"Lines are means over repeats, bands one standard error on both sides.{axes}"


def parts(groups: Sequence[Group]) -> Section:
    """Return the charts of the parts of the loss, one for each group whose loss has several."""
    panels: list[Section] = []
    for style, group in enumerate(groups):
        names = group.runs[0].parts
        lines: list[Line] = []
        for number_of_part, name in enumerate(names, 1):
            curve = group.curve(name)
            if curve:
                lines.append(Line(name=name, style=number_of_part, curve=curve))
        if len(lines) > 1:
            axis = Axis(title="loss", decimals=4, has_early=True)
            picture = line_chart(lines, axis, width=_PANEL, height=240, has_labels=True)
            panels.append({"title": group.name, "style": style, "picture": picture})
    caption = (
        "The weighted terms that the loss in training is the sum of; task is the labels'."
        " Losses of one term are not shown again."
    )
    return {"panels": panels, "caption": caption}


def run_rows(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return a row for each run: its line, its seed, how far it is, where it lies."""
    rows: list[dict[str, str]] = []
    for group in groups:
        for run in group.runs:
            state = "finished"
            if run.result is None:
                state = f"epoch {max(run.epochs, default=0)} of {run.config.epochs}"
            seed = str(run.config.run_seed)
            row = {"line": group.name, "seed": seed, "state": state, "folder": str(run.folder)}
            rows.append(row)
    return rows


def differing_settings_table(groups: Sequence[Group]) -> Section | None:
    """Return the settings that set groups apart; None of one group."""
    columns = list(groups[0].differing)
    if not columns:
        return None
    rows: list[Section] = []
    for group in groups:
        cells = [setting_text(group.differing[key]) for key in columns]
        rows.append({"name": group.name, "cells": cells})
    return {"columns": columns, "rows": rows}


def common_settings(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return the settings that all groups share, as text, but for those that change no result."""
    free = (*FREE, "run_seed", "order_seed", *groups[0].differing)
    common: list[tuple[str, str]] = []
    for key, value in flat_settings(dataclasses.asdict(groups[0].config)).items():
        if key not in free:
            common.append((key, setting_text(value)))
    return common


def setting_text(value: Any) -> str:
    """Return a setting as a page tells it."""
    if value is None or value in ((), {}):
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
