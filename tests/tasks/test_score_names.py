"""Scores are named in one place, for pages, commands and epochs."""

import pytest

from kdcache.tasks.registry import TASKS
from kdcache.tasks.score_names import (
    TITLES,
    leading,
    leading_scores,
    percent_scores,
    title_of,
)


@pytest.mark.parametrize("name", TASKS)
def test_the_best_score_of_a_task_leads_its_scores(name: str) -> None:
    task = TASKS[name]
    assert task.best in TITLES and leading(task.summary) == task.best
    averages = [f"ema_{score}" for score in task.summary]
    assert leading_scores([*averages, *task.summary]) == [task.best, f"ema_{task.best}"]
    assert title_of(f"ema_{task.best}") == f"{TITLES[task.best]} of the average"


def test_what_is_no_score_in_percent_is_left_out() -> None:
    names = ["eval_loss", "accuracy/cat", "top5", "ema_top1", "best_top1", "top1"]
    assert percent_scores(names) == ["top1", "top5", "ema_top1"]
    assert leading(["eval_loss"]) is None and leading_scores(["ema_top1"]) == []
