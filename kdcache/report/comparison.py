"""Which line scores highest, and by how much; only lines that are scored alike are compared."""

from collections.abc import Sequence

from kdcache.report.estimates import Difference, Estimate, paired_difference
from kdcache.report.groups import Group
from kdcache.report.wording import signed, with_error
from kdcache.runtime.wording import counted
from kdcache.tasks.score_names import leading, title_of
from kdcache.train.differences import FREE, differing_settings

_CONDITIONS = ("eval_data", "eval_recipe")
"""Settings under which scores are taken."""


def leading_score(groups: Sequence[Group]) -> str | None:
    """Return the score that groups are compared by: that of their results, else of their epochs."""
    names: dict[str, None] = {}
    for group in groups:
        for run in group.runs:
            names |= dict.fromkeys([*(run.result or {}), *run.last])
    return leading(names)


def unlike_conditions(group: Group, other: Group) -> list[str]:
    """Return what sets the scores of two groups apart so that they cannot be compared: `task`,
    `eval_data`, `eval_recipe`; nothing where one of the groups has no scores."""
    score = leading_score([group])
    other_score = leading_score([other])
    if score is None or other_score is None:
        return []
    conditions: list[str] = []
    if score != other_score:
        conditions.append("task")
    differing = differing_settings(group.config, other.config, free=FREE)
    for name in _CONDITIONS:
        if name in differing:
            conditions.append(name)
    return conditions


def difference_from(group: Group, reference: Group, score: str) -> Difference | None:
    """Return how much higher a group scores than the reference; None of the reference itself, and
    where they share no seeds or cannot be compared."""
    if group is reference or unlike_conditions(group, reference):
        return None
    return paired_difference(group.values(score), reference.values(score))


def unlike_note(groups: Sequence[Group]) -> str:
    """Return why some groups are not compared, of those with finished runs; nothing where all
    are."""
    scored: list[Group] = []
    for group in groups:
        if group.finished and leading_score([group]) is not None:
            scored.append(group)
    conditions: dict[str, None] = {}
    for group in scored[1:]:
        conditions |= dict.fromkeys(unlike_conditions(group, scored[0]))
    if not conditions:
        return ""
    names = " and ".join(conditions)
    return (
        f"Lines differ in {names}: their scores cannot be compared. No line is said to score"
        " highest, and lines that differ so have no difference."
    )


def verdict(groups: Sequence[Group], reference: Group) -> list[tuple[str, str]]:
    """Return in pieces of a sentence which group scores highest, and by how much; each piece with
    what it is: a `name`, a `number` or nothing. There is no sentence where groups cannot be
    compared."""
    score = leading_score(groups)
    if score is None or unlike_note(groups):
        return []
    best: Group | None = None
    best_mean: Estimate | None = None
    for group in groups:
        mean = group.estimate(score)
        if mean is not None and (best_mean is None or mean.mean > best_mean.mean):
            best = group
            best_mean = mean
    if best is None or best_mean is None:
        return []
    verb = "scores highest"
    if len(groups) == 1:
        verb = "scores"
    pieces = [
        (best.name, "name"),
        (f" {verb}: {title_of(score)} ", ""),
        (f"{with_error(best_mean)} %", "number"),
        (f" in the last epoch, over {counted(best_mean.count, 'run')}.", ""),
    ]
    difference = difference_from(best, reference, score)
    if difference is None:
        return pieces
    pairs = counted(difference.estimate.count, "pair")
    return [
        *pieces,
        (" That is ", ""),
        (signed(difference), "number"),
        (" points against ", ""),
        (reference.name, "name"),
        (f", higher in {difference.num_higher} of {pairs} with the same seeds.", ""),
    ]
