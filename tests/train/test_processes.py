"""Runs in processes of their own: killed, ended by a scheduler, one of several lost, and then gone
on with."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nursery import Program, command, torchrun
from runs import LONG, MLP, losses, steps, train, train_config
from safetensors.torch import load_file

from kdcache.config.files import dump_config
from kdcache.train.run import TrainConfig


def words_of(config: TrainConfig, folder: Path) -> list[str]:
    """Return the words of `train-student` with a configuration."""
    file = folder / "run.toml"
    file.write_text(dump_config(config, "train-student"))
    return ["train-student", "--config", str(file), "--json"]


def started(config: TrainConfig, folder: Path, processes: int = 0) -> Program:
    return command(*words_of(config, folder), folder=folder, processes=processes)


def wait_for_steps(process: Program, run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(steps(run)) < count:
        assert process.is_running() and time.monotonic() < deadline, process.end()
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_any_step_and_run_again_equals_unbroken(tmp_path: Path) -> None:
    expected = train(tmp_path / "unbroken", **LONG)
    killed = train_config(tmp_path / "killed", **LONG)
    for count in (5, 31):
        process = started(killed, tmp_path)
        wait_for_steps(process, tmp_path / "killed", count)
        process.stop(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL
    found = train(tmp_path / "killed", **LONG)
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    scores = (
        "steps",
        "top1",
        "eval_loss",
        "ema_top1",
        "ema_eval_loss",
        "best_top1",
        "best_epoch",
        "best_weights",
        "train_loss",
    )
    assert {name: found[name] for name in scores} == pytest.approx(
        {name: expected[name] for name in scores}
    )
    for name in ("student", "ema", "best"):
        mine, theirs = (
            load_file(tmp_path / run / f"{name}.safetensors") for run in ("killed", "unbroken")
        )
        assert all(torch.equal(mine[key], value) for key, value in theirs.items()), name


@pytest.mark.slow
def test_a_run_of_several_processes_that_loses_one_goes_on(tmp_path: Path) -> None:
    """As under torchrun; one process is killed on purpose, and a single one finishes the run."""
    settings = {**LONG, "student": MLP}
    train(tmp_path / "unbroken", **settings)
    config = train_config(tmp_path / "run", **settings)
    process = started(config, tmp_path, processes=2)
    wait_for_steps(process, tmp_path / "run", 10)
    os.kill(process.worker(1), signal.SIGKILL)
    assert process.end()[0] != 0 and len(steps(tmp_path / "run")) < 72
    process = started(config, tmp_path, processes=2)
    wait_for_steps(process, tmp_path / "run", 40)
    process.stop(signal.SIGTERM)
    process.end()
    train(tmp_path / "run", **settings)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "unbroken"), rtol=1e-3)


@pytest.mark.slow
def test_one_of_several_processes_prints_the_result(tmp_path: Path) -> None:
    """Under torchrun itself, as the documents say; then as under it, and refused."""
    data = "tiny_models:noise,classes=10,size=8"  # scikit-learn's digits take each process a second more
    config = train_config(
        tmp_path / "run", **{**LONG, "data": data, "eval_data": data, "epochs": 1}
    )
    words = ["-m", "kdcache_cli", *words_of(config, tmp_path)]
    code, printed, told = torchrun(*words, folder=tmp_path).end()
    assert code == 0 and json.loads(printed) == json.loads(
        (tmp_path / "run" / "result.json").read_text()
    )
    assert told.count("epoch 1/1") == 1
    code, _, errors = started(replace(config, batch_size=7), tmp_path, processes=2).end()
    assert (
        code != 0
        and errors.count("kdcache: error: run ") == 1
        and "batch_size: 8 there, 7 now" in errors
    )
