"""Scores by class, and which classes are taken for which, of the weights that runs have kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdcache.errors import KdcacheError
from kdcache.report.estimates import Estimate, estimate
from kdcache.report.groups import Group
from kdcache.report.runs import Numbers
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.wording import counted
from kdcache.tasks.score_names import class_scores


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """What single classes of a group score."""

    values: Mapping[str, Estimate]
    """By class, in percent."""
    confusions: Mapping[str, float] = field(default_factory=dict)
    """The share of a class's samples that are taken for another, in percent, by `NAME as OTHER`."""
    calibration: Estimate | None = None
    """The calibration error in percent."""
    kind: str = "accuracy"
    """What the values are."""
    is_evaluated: bool = False
    """Whether they are those of the best weights, and not what the last epoch recorded."""


def recorded_scores(group: Group) -> ClassScores | None:
    """Return the scores by class that the last epochs of a group tell; None if they tell none."""
    return _scores_of([run.last for run in group.finished])


def evaluated_scores(
    groups: Sequence[Group], compute: ComputeConfig
) -> tuple[dict[str, ClassScores], Sequence[str]]:
    """Return the scores by class of the best weights of each group, by its name: means over those
    of its runs that can be evaluated; and a sentence on each that cannot.

    Runs that see the same views are evaluated side by side.
    """
    from kdcache.tools.evaluate_runs import evaluate_runs  # noqa: PLC0415 # torch

    folders = []
    for group in groups:
        folders += [str(run.folder) for run in group.finished if run.config.eval_data is not None]
    results = evaluate_runs(folders, compute)
    scores: dict[str, ClassScores] = {}
    problems: list[str] = []
    for group in groups:
        numbers, own_problems = _numbers_of(group, results)
        own_scores = _scores_of(numbers)
        if own_scores is not None:
            scores[group.name] = replace(own_scores, is_evaluated=True)
        problems += own_problems
    return scores, problems


def _numbers_of(
    group: Group, results: Mapping[str, Numbers | KdcacheError]
) -> tuple[list[Numbers], list[str]]:
    """Return the scores of a group's runs, and a sentence on each that has none."""
    if not group.finished:
        return [], [f"No scores by class of {group.name}: none of its runs is finished."]
    numbers: list[Numbers] = []
    problems: list[str] = []
    for run in group.finished:
        if run.config.eval_data is None:
            problems.append(
                f"No scores by class of run {run.folder}: it was trained without evaluation data,"
                " eval_data."
            )
            continue
        result = results[str(run.folder)]
        if isinstance(result, KdcacheError):
            problems.append(f"No scores by class of run {run.folder}: {result}")
        else:
            numbers.append(result)
    if numbers and problems:
        problems.append(
            f"Scores by class of {group.name} are means over {len(numbers)} of its"
            f" {counted(len(group.finished), 'finished run')}."
        )
    return numbers, problems


def _scores_of(runs: Sequence[Numbers]) -> ClassScores | None:
    """Return the means over the scores of some runs; of a pair of classes that a run does not tell
    it is 0."""
    names: dict[str, str] = {}
    confused: dict[str, float] = {}
    for numbers in runs:
        names |= class_scores(numbers)
        for name, value in numbers.items():
            kind, _, pair = name.partition("/")
            if kind == "taken":
                confused[pair] = confused.get(pair, 0.0) + value / len(runs)
    if not names:
        return None
    values: dict[str, Estimate] = {}
    for class_name, name in names.items():
        mean = estimate([numbers[name] for numbers in runs if name in numbers])
        if mean is not None:
            values[class_name] = mean
    calibration = estimate([run["calibration_error"] for run in runs if "calibration_error" in run])
    kind = next(iter(names.values())).partition("/")[0]
    return ClassScores(values=values, confusions=confused, calibration=calibration, kind=kind)
