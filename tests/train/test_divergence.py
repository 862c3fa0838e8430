"""A loss that grows without end is told once, when it does."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import losses, train, train_config

from kdcache.train.divergence import DivergenceNote
from kdcache.train.metrics_log import NoMetrics
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.run import train_students

WITHOUT_BOUND = OptimizerConfig(lr=3.0, weight_decay=1.0)  # w becomes -2 w
SHARED: dict[str, Any] = {
    "recipe": "digits",
    "loss": "ce",
    "schedule": ScheduleConfig(name="none"),
}
NAN = math.nan


def step(loss: float, number: int = 1) -> dict[str, Any]:
    return {"kind": "step", "step": number, "epoch": 1, "loss": loss}


def epoch(loss: float, number: int = 1) -> dict[str, Any]:
    return {"kind": "epoch", "step": 8, "epoch": number, "loss": loss}


@pytest.mark.parametrize(
    ("past", "lines", "told"),
    [
        ([], [step(2), step(150), step(199)], ""),
        ([], [step(2), step(150), step(201), step(2), step(201)], ""),  # odd batches
        ([], [step(2), step(201), step(202, 9), step(203)], "from 2 at step 1 to 202 at step 9"),
        ([], [step(2), epoch(201), step(300), epoch(500, 2)], "from 2 at step 1 to 201 in epoch 1"),
        ([], [epoch(2), epoch(201, 2)], "from 2 in epoch 1 to 201 in epoch 2"),
        ([], [step(0), step(1), step(90), epoch(99)], ""),
        ([], [step(0), step(1), step(110, 3), step(120, 4)], "from 1 at step 1 to 120 at step 4"),
        ([], [step(0.01), step(9), step(9), epoch(9)], ""),  # of good weights, and easy views
        ([], [step(0.01), step(9), epoch(11)], "from 0.01 at step 1 to 11 in epoch 1"),
        ([], [step(2), step(NAN, 2), step(NAN, 3)], "from 2 at step 1 to nan at step 3"),
        ([], [step(NAN, 2), step(NAN, 3), step(NAN, 4)], "loss is nan at step 3"),
        ([step(2), step(201), step(202)], [step(203), epoch(204)], ""),  # told before
        ([step(2), step(201)], [step(203, 3)], "from 2 at step 1 to 203 at step 3"),
        ([], [{"kind": "epoch", "step": 0, "epoch": 1}, epoch(2, 2)], ""),  # of no step
    ],
)
def test_it_is_told_once_when_it_has_grown_a_hundredfold(
    past: list[Any], lines: list[Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note = DivergenceNote(past, of="a", rate=0.1, others=NoMetrics())
    for line in lines:
        note.write(line)
    err = capsys.readouterr().err
    assert err.count("note: a: the loss ") == bool(told)
    assert told in err
    assert not told or "a lower optimizer.lr (0.1), or clip_grad, may keep it small" in err


def test_a_run_says_it_before_it_ends_and_not_again_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "well", **SHARED, epochs=3)
    assert "note:" not in capsys.readouterr().err
    train(tmp_path / "far", **SHARED, epochs=4, optimizer=WITHOUT_BOUND)
    before, note, after = capsys.readouterr().err.partition("note: the loss has grown from ")
    assert note and "epoch 4/4" not in before and "epoch 4/4" in after
    assert "the loss has grown" not in after
    train(tmp_path / "far", **SHARED, epochs=5, optimizer=WITHOUT_BOUND)
    err = capsys.readouterr().err
    assert "epoch 5/5" in err and "the loss has grown" not in err


def test_of_several_runs_it_is_told_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    well = train_config(tmp_path / "well", **SHARED, epochs=4)
    far = replace(well, run=str(tmp_path / "far"), optimizer=WITHOUT_BOUND)
    train_students([well, far])
    err = capsys.readouterr().err
    assert err.count("the loss has grown") == err.count("note: far: the loss has grown") == 1
    train(tmp_path / "alone", **SHARED, epochs=4)
    assert losses(tmp_path / "alone") == losses(tmp_path / "well")
