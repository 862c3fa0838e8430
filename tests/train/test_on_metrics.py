"""One function that gets every line of metrics."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake
from runs import DIGITS, train_config

from kdcache.errors import KdcacheError, UsageError
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.run import train_student, train_students

SETTINGS: dict[str, Any] = {"recipe": "digits", "loss": "ce", "eval_data": DIGITS, "epochs": 1}


def test_a_function_gets_every_line(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    train_student(train_config(tmp_path, **SETTINGS), on_metrics=lines.append)
    assert {line["run"] for line in lines} == {str(tmp_path)}
    bare = [{name: line[name] for name in line if name != "run"} for line in lines]
    assert bare == read_metrics(tmp_path / "metrics.jsonl")
    assert [line["kind"] for line in lines] == ["step", "step", "epoch"]
    assert "top1" in lines[-1] and "loss" in lines[0]


def test_so_does_one_that_the_settings_name(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    called: list[Any] = []
    config = train_config(
        tmp_path / "run", on_metrics=f"tiny_models:metrics_to,path={file}", **SETTINGS
    )
    train_student(config, on_metrics=called.append)
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written == called and len(written) == 3


def test_lines_of_several_students_say_whose_they_are(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    configs = [
        train_config(tmp_path / name, run_seed=seed, order_seed=0, **SETTINGS)
        for seed, name in enumerate("ab")
    ]
    train_students(configs, on_metrics=lines.append)
    for name in "ab":
        own = [line for line in lines if line["run"] == str(tmp_path / name)]
        assert len(own) == len(read_metrics(tmp_path / name / "metrics.jsonl")) == 3


def test_a_function_that_fails_stops_the_run_in_one_line(tmp_path: Path) -> None:
    def fail(line: dict[str, Any]) -> None:
        raise ValueError("no network")

    with pytest.raises(KdcacheError, match=r"on_metrics fails: ValueError: no network.*; mend it"):
        train_student(train_config(tmp_path, **SETTINGS), on_metrics=fail)


def test_what_cannot_be_called_is_told(tmp_path: Path) -> None:
    for text, message in (
        ("tiny_models:noise", "it must give a function that is called with each line"),
        ("tiny_models:metrics_to", "path"),
        ("tiny_models:metrics_too", "did you mean 'metrics_to'"),
    ):
        config = train_config(tmp_path / "run", on_metrics=text, **SETTINGS)
        with pytest.raises((UsageError, KdcacheError), match=message):
            train_student(config)
    words = ("train-student", tmp_path / "other", "--data", DIGITS, "--student", "timm:test_resnet")
    line = mistake(*words, "--recipe", "digits", "--loss", "ce", "--set", "on_metrics=nowhere:log")
    assert "unknown on_metrics 'nowhere': no module of that name in this folder" in line
