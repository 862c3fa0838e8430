"""How long the rest of a run takes is told from its steps and evaluations so far."""

import time

import pytest

from kdcache.train.outlook import Outlook


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which a test moves."""
    moment = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def step(outlook: Outlook, now: list[float], seconds: float) -> None:
    now[0] += seconds
    outlook.end_step()


def test_steps_and_evaluations_to_come_take_what_those_so_far_took(now: list[float]) -> None:
    outlook = Outlook()
    outlook.start_epoch(steps_left=4, evaluations_left=2)
    assert outlook.text() == ""
    step(outlook, now, 3.0)
    assert outlook.text() == "9.0 s left, evaluation not counted"
    step(outlook, now, 1.0)
    with outlook.evaluation():
        now[0] += 5.0
    assert outlook.text() == "9.0 s left", "two steps of 2 s, one evaluation of 5 s"
    now[0] += 50.0  # checkpoints are no steps
    outlook.start_epoch(steps_left=2, evaluations_left=1)
    step(outlook, now, 2.0)
    step(outlook, now, 2.0)
    assert outlook.text() == "5.0 s left"
    with outlook.evaluation():
        now[0] += 5.0
    assert outlook.text() == ""


def test_without_evaluation_steps_alone_count(now: list[float]) -> None:
    outlook = Outlook()
    outlook.start_epoch(steps_left=3, evaluations_left=0)
    step(outlook, now, 60.0)
    assert outlook.text() == "2.0 min left"
    with outlook.evaluation():  # of no data
        now[0] += 1.0
    assert outlook.text() == "2.0 min left"
