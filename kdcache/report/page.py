"""A report: what is known of some runs, put together, and written as one page that needs nothing
else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from kdcache.errors import KdcacheError, one_line, printable
from kdcache.report.caches import CacheFacts, cache_facts, used_caches
from kdcache.report.class_sections import class_section, confusion_section, teacher_figure
from kdcache.report.classes import ClassScores, evaluated_scores, recorded_scores
from kdcache.report.comparison import difference_from, leading_score, unlike_note, verdict
from kdcache.report.config import ReportConfig
from kdcache.report.estimates import Estimate
from kdcache.report.groups import Group, grouped, reference_of
from kdcache.report.runs import read_runs
from kdcache.report.score_sections import (
    Section,
    common_settings,
    curves,
    differing_settings_table,
    parts,
    run_rows,
    score_table,
    setting_text,
)
from kdcache.report.svg import add_mark, canvas, markup
from kdcache.runtime.console import each_once, say
from kdcache.runtime.files import whole_file
from kdcache.runtime.wording import counted
from kdcache.version import __version__

_MOST_TOLD = 160
"""Characters of a setting below the title."""
_NOT_EVALUATED = "Left out, as asked: weights and data were not looked at."


@dataclass
class _Looks:
    """What looking at weights and data has given."""

    scores: dict[str, ClassScores] = field(default_factory=dict)
    """By the name of a group."""
    class_notes: list[str] = field(default_factory=list)
    view_notes: list[str] = field(default_factory=list)
    view_caption: str = ""
    examples: Sequence[Any] = ()
    confidence: dict[str, Estimate] = field(default_factory=dict)
    accuracy: dict[str, Estimate] = field(default_factory=dict)


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Write the page, and return what it tells in numbers.

    Returns:
        `file`, `score` (the leading one's name), `against`, and for each of `lines` its `name`,
        `runs` (folders), `settings` (in which lines differ), `score` and `difference` (see
        `Estimate` and `Difference`), None where there is none.

    Raises:
        UsageError: folders that are no runs, or nothing of the name to compare with.
        KdcacheError: files that cannot be read, or the page cannot be written.
    """
    runs = read_runs(config.runs)
    groups = grouped(runs)
    reference = reference_of(groups, config.against)
    groups = [reference, *[group for group in groups if group is not reference]]
    note = unlike_note(groups)
    if note:
        say(f"note: {note}")
    caches = [cache_facts(path) for path in used_caches(runs)]
    with each_once():  # runs of one cache open the same data
        looks = _looked_at(groups, config)
    could_evaluate = config.evaluate is None
    page = _rendered(_context(groups, reference, caches, looks, could_evaluate=could_evaluate))
    try:
        with whole_file(Path(config.out), is_synced=False) as file:
            file.write(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise KdcacheError(
            f"cannot write report {config.out}: {error.strerror}; choose another place, or make"
            " room there"
        ) from error
    return _summary(config, groups, reference)


def _looked_at(groups: Sequence[Group], config: ReportConfig) -> _Looks:
    """Return what is said of classes and views."""
    looks = _Looks()
    for group in groups:
        scores = recorded_scores(group)
        if scores is not None:
            looks.scores[group.name] = scores
    if config.evaluate is False:
        looks.view_notes.append(_NOT_EVALUATED)
        if not looks.scores:
            looks.class_notes.append(_NOT_EVALUATED)
        return looks
    _evaluate(groups, config, looks)
    from kdcache.report.examples import looked_at  # noqa: PLC0415 # torch

    say("report: looking at views")
    views = looked_at(groups, config.compute)
    looks.view_caption = views.caption
    looks.examples = views.examples
    looks.confidence = views.confidence
    looks.accuracy = views.accuracy
    looks.view_notes += views.problems
    return looks


def _evaluate(groups: Sequence[Group], config: ReportConfig, looks: _Looks) -> None:
    """Take the scores by class of the best weights: of each group if the user asks for it, else of
    those that have not recorded any."""
    chosen = groups
    if config.evaluate is None:
        chosen = [group for group in groups if group.name not in looks.scores]
    scores, problems = evaluated_scores(chosen, config.compute)
    looks.scores |= scores
    looks.class_notes += problems


def _context(
    groups: Sequence[Group],
    reference: Group,
    caches: Sequence[CacheFacts],
    looks: _Looks,
    *,
    could_evaluate: bool,
) -> Section:
    """Return all that the template takes."""
    classes = class_section(groups, looks.scores, could_evaluate=could_evaluate)
    classes["notes"] = looks.class_notes
    if not looks.scores and not looks.class_notes:
        classes["notes"] = ["No run tells scores by class."]
    lines = []
    for style, group in enumerate(groups):
        lines.append({"name": group.name, "style": style})
    return {
        "css": Markup(_resource("page.css")),
        "marks": _marks(),
        "version": __version__,
        "title": _title(groups),
        "subtitle": _subtitle(groups),
        "verdict": verdict(groups, reference),
        "lines": lines,
        "table": score_table(groups, reference),
        "curves": curves(groups),
        "parts": parts(groups),
        "classes": classes,
        "confusion": confusion_section(groups, looks.scores),
        "caches": caches,
        "teacher": teacher_figure(looks.confidence, looks.accuracy),
        "views": _views(looks),
        "runs": run_rows(groups),
        "differing": differing_settings_table(groups),
        "common": common_settings(groups),
        "finished": _last_finished(groups),
    }


def _title(groups: Sequence[Group]) -> str:
    num_runs = sum(len(group.runs) for group in groups)
    if len(groups) == 1:
        return f"{counted(num_runs, 'run')} of {groups[0].name}"
    return f"{counted(num_runs, 'run')} compared in {counted(len(groups), 'line')}"


def _subtitle(groups: Sequence[Group]) -> str:
    """Return what all runs share of what matters most."""
    shared = dict(common_settings(groups))
    texts: list[str] = []
    for key in ("student", "data", "eval_data", "epochs"):
        value = shared.get(key)
        if value is not None and value != setting_text(None):
            texts.append(f"{key.replace('_', ' ')} {one_line(value, _MOST_TOLD)}")
    return " \u00b7 ".join(texts)


def _views(looks: _Looks) -> Section:
    return {
        "caption": looks.view_caption,
        "examples": looks.examples,
        "notes": looks.view_notes,
        "are_small": any(example.is_small for example in looks.examples),
    }


def _last_finished(groups: Sequence[Group]) -> str:
    """Return when the last run was finished; nothing where none is, or none says when."""
    times: list[str] = []
    for group in groups:
        for run in group.finished:
            times.append(str((run.result or {}).get("finished", "")))
    return max(times, default="")


def _summary(config: ReportConfig, groups: Sequence[Group], reference: Group) -> dict[str, Any]:
    score = leading_score(groups)
    lines: list[dict[str, Any]] = []
    for group in groups:
        line: dict[str, Any] = {
            "name": group.name,
            "runs": [str(run.folder) for run in group.runs],
            "settings": dict(group.differing),
            "score": None,
            "difference": None,
        }
        if score is not None:
            mean = group.estimate(score)
            if mean is not None:
                line["score"] = mean.to_json()
            difference = difference_from(group, reference, score)
            if difference is not None:
                line["difference"] = difference.to_json()
        lines.append(line)
    return {"file": config.out, "score": score, "against": reference.name, "lines": lines}


def _marks() -> list[Markup]:
    """Return the marks of lines, one of each shape, as a legend has them."""
    marks: list[Markup] = []
    for style in range(4):
        root = canvas(14, 14, "")
        add_mark(root, style, 0, 0)
        marks.append(markup(root[0]))
    return marks


def _rendered(context: Section) -> str:
    """Return the page; every text in it that is not of this package is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(context)


def _shown(value: Any) -> Any:
    """Return a value as the page has it: characters that a page cannot hold become escapes."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _resource(name: str) -> str:
    return (resources.files("kdcache.report") / name).read_text("utf-8")
