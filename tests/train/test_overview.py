"""Several runs are told before they train: what all have in common once, what differs in a table."""

from dataclasses import replace
from pathlib import Path

import pytest
from runs import DIGITS, train_config

from kdcache.train.config import TrainConfig
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.overview import WIDTH, overview, run_names
from kdcache.train.run import train_students
from kdcache.train.variants import varied_configs

FLAGS = {"run": "runs/study", "cache": "caches/r50", "data": "imagefolder:/data/train"}


def varied(*texts: str, student: str | None = "timm:resnet18") -> list[TrainConfig]:
    return varied_configs(
        file=None,
        flags={**FLAGS, "student": student, "epochs": 100},
        settings=(),
        varied=texts,
    )


def test_what_all_have_in_common_is_told_once_and_what_differs_in_a_table() -> None:
    configs = varied("loss=ce", "loss=kl:tau=4", "run_seed=0", "run_seed=1", "optimizer.lr=0.02")
    assert overview(configs) == [
        "4 runs side by side in runs/study",
        "  all have cache=caches/r50 data=imagefolder:/data/train epochs=100",
        "    student=timm:resnet18 optimizer.lr=0.02",
        "  run_seed  loss",
        "  0         ce",
        "  1         ce",
        "  0         kl:tau=4",
        "  1         kl:tau=4",
    ]


def test_folders_are_told_where_their_names_say_something_else() -> None:
    first, second = varied("loss=ce", "loss=kl")
    configs = [replace(first, run="runs/labels"), replace(second, run="runs/teacher/kl")]
    assert overview(configs)[3:] == [
        "  run         loss",
        "  labels      ce",
        "  teacher/kl  kl",
    ]
    assert run_names(configs) == ["labels", "teacher/kl"]


def test_an_option_that_the_first_run_lacks_is_told() -> None:
    first, second = varied("loss=ce", "loss=kl")
    configs = [first, replace(second, schedule=ScheduleConfig(options={"cycle_limit": 2}))]
    assert overview(configs)[3:] == [
        "  run      loss  schedule.options.cycle_limit",
        "  loss=ce  ce    none",
        "  loss=kl  kl    2",
    ]


def test_runs_that_differ_in_nothing_are_told_by_their_folders() -> None:
    (config,) = varied("loss=ce")
    configs = [replace(config, run="runs/a"), replace(config, run="runs/b")]
    assert overview(configs)[-3:] == ["  run", "  a", "  b"]


def test_a_table_fits_a_terminal_whatever_is_varied() -> None:
    longest = "timm:resnet18,weights=/data/teachers/of/a/long/name/model_best.pth.tar,drop_rate=0.2"
    lines = overview(
        varied(
            "loss=ce", "loss=kl", "run_seed=0", f"student={longest}", "student=x:y", student=None
        )
    )
    assert max(map(len, lines)) <= WIDTH
    assert "timm:resnet18" in "".join(lines) and "drop_rate=0.2" in "".join(lines)


def test_one_run_is_told_by_its_epochs_alone() -> None:
    (config,) = varied("loss=ce")
    assert overview([config]) == [] and run_names([config]) == [""]


def test_what_several_runs_have_to_note_is_noted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {"recipe": "digits", "loss": "ce", "eval_data": DIGITS, "epochs": 1}
    schedule = ScheduleConfig(warmup_epochs=2)
    configs = [
        train_config(
            tmp_path / f"lr{lr}", **shared, schedule=schedule, optimizer=OptimizerConfig(lr=lr)
        )
        for lr in (0.1, 0.2, 0.3)
    ]
    train_students(configs)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "warmup_epochs is 2" in line] == [
        "note: schedule.warmup_epochs is 2, and the run ends after 1 epoch: the learning rate never"
        " reaches its height"
    ]
    assert sum(line.startswith(("lr0.1: epoch 1/1", "lr0.3: epoch 1/1")) for line in lines) == 2

    (tmp_path / "lr0.2" / "result.json").unlink()
    train_students(configs)
    assert "note: 2 of 3 runs are finished: for them nothing was tr" in capsys.readouterr().err
    train_students(configs)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: all 3 runs are finished: these are their results")
