"""A run that is extended is the one that was begun with more epochs, where the schedule allows
it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import DIGITS, MLP, dump, losses, train, train_config
from safetensors.torch import load_file

from kdcache.errors import KdcacheError, MismatchError, UsageError
from kdcache.train.optim import ScheduleConfig, depends_on_end, make_schedule
from kdcache.train.run import train_student
from kdcache.train.specs import check_specs

STEP = ScheduleConfig(name="step", decay_epochs=1, decay_rate=0.5)
SETTINGS: dict[str, Any] = {
    "student": f"{MLP},dropout=0.3",
    "schedule": STEP,
    "eval_data": DIGITS,
}


def weights(run: Path) -> torch.Tensor:
    state = load_file(run / "student.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("has_cache", [True, False])
def test_an_extended_run_is_the_longer_one(
    tmp_path: Path, has_cache: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SETTINGS, "recipe": "digits", "loss": "ce"}
    if has_cache:
        dump(tmp_path / "cache")
        settings = {**SETTINGS, "cache": str(tmp_path / "cache")}
    train(tmp_path / "long", epochs=5, **settings)
    train(tmp_path / "run", epochs=2, **settings)
    before = weights(tmp_path / "run")
    capsys.readouterr()
    result = train(tmp_path / "run", epochs=5, **settings)
    assert "is extended from 2 to 5 epochs" in capsys.readouterr().err
    assert result["epochs"] == 5
    assert losses(tmp_path / "run") == losses(tmp_path / "long")
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "long"))
    assert not torch.equal(weights(tmp_path / "run"), before)


def test_an_extension_that_is_stopped_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SETTINGS, "recipe": "digits", "loss": "ce"}
    train(tmp_path / "long", epochs=4, **settings)
    train(tmp_path / "run", epochs=2, **settings)
    longer = train_config(tmp_path / "run", epochs=4, **settings)

    def stop(line: dict[str, Any]) -> None:
        if line["epoch"] == 3:
            raise ValueError("stop")

    with pytest.raises(KdcacheError, match="ValueError: stop"):
        train_student(longer, on_metrics=stop)
    check_specs([replace(longer, eval_data=None)])
    with pytest.raises(UsageError, match=r"unknown recipe .*'none-such'"):
        check_specs([replace(longer, recipe="none-such")])
    capsys.readouterr()
    assert train_student(longer)["epochs"] == 4
    assert "is finished" not in capsys.readouterr().err
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "long"))


def test_a_schedule_that_knows_the_end_is_not_extended(tmp_path: Path) -> None:
    settings = {**SETTINGS, "recipe": "digits", "loss": "ce", "schedule": ScheduleConfig()}
    train(tmp_path / "run", epochs=1, **settings)
    with pytest.raises(MismatchError, match=r"epochs: 1 there, 2 now.*rates of schedule cosine"):
        train(tmp_path / "run", epochs=2, **settings)
    settings["schedule"] = ScheduleConfig(name="none")
    with pytest.raises(MismatchError, match=rf"begin a new run with --student {tmp_path}/run$"):
        train(tmp_path / "run", epochs=2, **settings)


def test_no_run_is_shortened_or_extended_with_another_change(tmp_path: Path) -> None:
    settings = {**SETTINGS, "recipe": "digits", "loss": "ce"}
    train(tmp_path / "run", epochs=2, **settings)
    with pytest.raises(MismatchError, match="epochs: 2 there, 1 now"):
        train(tmp_path / "run", epochs=1, **settings)
    with pytest.raises(MismatchError, match="run_seed: 0 there, 1 now") as told:
        train(tmp_path / "run", epochs=3, run_seed=1, **settings)
    assert "rates of schedule" not in str(told.value), "they are no reason"


def rates(config: ScheduleConfig, epochs: int) -> list[float]:
    """Return the rates of the steps of six epochs, of so many epochs in all."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, config, epochs=epochs, steps_per_epoch=4)
    values = []
    for step in range(24):
        schedule.step_update(step)
        values.append(optimizer.param_groups[0]["lr"])
    return values


@pytest.mark.parametrize(
    ("schedule", "depends"),
    [
        (ScheduleConfig(name="none"), False),
        (ScheduleConfig(name="constant", warmup_epochs=2), False),
        (ScheduleConfig(name="step", decay_epochs=3, warmup_epochs=2), False),
        (ScheduleConfig(name="multistep", decay_milestones=(2, 4)), False),
        (ScheduleConfig(name="step", options={"cycle_limit": 2, "k_decay": 2.0}), False),
        (ScheduleConfig(name="step", options={"noise": [0.2, 0.9]}), True),
        (ScheduleConfig(name="cosine"), True),
        (ScheduleConfig(name="tanh"), True),
        (ScheduleConfig(name="poly"), True),
        (ScheduleConfig(name="wsd", decay_epochs=0.5), True),
        (ScheduleConfig(name="rsqrt", decay_epochs=0.5, warmup_epochs=2), True),
    ],
    ids=lambda value: value.name if isinstance(value, ScheduleConfig) else "",
)
def test_which_schedules_depend_on_the_end(schedule: ScheduleConfig, depends: bool) -> None:
    """What is told without torch is what timm's schedules do."""
    assert depends_on_end(schedule) is depends
    try:
        assert (rates(schedule, 6) != rates(schedule, 12)) is depends
    except UsageError as error:  # of an older timm
        assert "is not in this version" in str(error) or "Unknown scheduler" in str(error)
