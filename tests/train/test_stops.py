"""Trainings that are told to stop, by whichever signal, wherever it arrives: the last step is kept,
and nothing hangs."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import Program, children, command, is_alive
from runs import LONG, MLP, dump, losses, steps, train, train_config
from tiny_models import FEW

from kdcache.config.files import dump_config
from kdcache.runtime.device import ComputeConfig
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.run import TrainConfig

SETTINGS: dict[str, Any] = {**LONG, "epochs": 3, "student": MLP, "checkpoint_minutes": 60.0}
EPOCH = FEW // SETTINGS["batch_size"]
"""Steps; there is no checkpoint inside an epoch but for a stop."""
WITH_WORKERS = {**SETTINGS, "compute": ComputeConfig(workers=2, device="cpu")}


def words_of(config: TrainConfig, folder: Path) -> list[str]:
    file = folder / "run.toml"
    file.write_text(dump_config(config, "train-student"))
    return ["train-student", "--config", str(file), "--json"]


def started(config: TrainConfig, folder: Path, processes: int = 0, method: str = "fork") -> Program:
    return command(*words_of(config, folder), folder=folder, processes=processes, method=method)


def wait_until(is_so: Callable[[], bool], process: Program) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.is_running() and time.monotonic() < deadline, process.end()
        time.sleep(0.005)


def wait_for_steps(process: Program, run: Path, count: int) -> None:
    wait_until(lambda: len(steps(run)) >= count, process)


def kept_step(run: Path) -> int:
    return int(torch.load(run / "last.pt", weights_only=True)["step"])


def told(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("kdcache: error:")]


def is_told(errors: str, name: str, run: Path) -> bool:
    """Return whether one line says which signal, what is kept and the way to go on, and none speaks
    of dead workers."""
    line = (
        f"kdcache: error: stopped by {name} after step {kept_step(run)}, which is kept; run the"
        " same command again to go on"
    )
    lines = [re.sub(r" \(rank 0 of \d+ on \S+\)$", "", found) for found in told(errors)]
    return lines == [line] and "worker was killed" not in errors and "Traceback" not in errors


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that nobody stopped."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(run, **SETTINGS)
    return run


def same(run: Path, unbroken: Path) -> bool:
    """Return whether losses and scores of a run are, bit for bit, those of another."""
    names = ("step", "epoch", "loss", "task", "top1", "eval_loss", "ema_eval_loss")
    mine, theirs = (
        [{name: line.get(name) for name in names} for line in read_metrics(one / "metrics.jsonl")]
        for one in (run, unbroken)
    )
    return mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "method"), [("SIGTERM", "fork"), ("SIGINT", "fork"), ("SIGHUP", "forkserver")]
)
def test_a_signal_to_the_whole_group_keeps_the_last_step(
    tmp_path: Path, unbroken: Path, number: str, method: str
) -> None:
    """With loader workers, to which it goes as well, and to what starts them."""
    run = tmp_path / "run"
    process = started(train_config(run, **WITH_WORKERS), tmp_path, method=method)
    wait_for_steps(process, run, EPOCH + 3)
    process.stop_all(signal.Signals[number])
    code, _, errors = process.end(60)
    assert code == 128 + signal.Signals[number] and is_told(errors, number, run), errors
    assert len(steps(run)) == kept_step(run) >= EPOCH + 3, "nothing is trained twice"
    train(run, **SETTINGS)
    assert same(run, unbroken)


@pytest.mark.slow
def test_signals_to_loader_workers_alone_change_nothing(tmp_path: Path, unbroken: Path) -> None:
    run = tmp_path / "run"
    process = started(train_config(run, **WITH_WORKERS), tmp_path)
    wait_for_steps(process, run, 3)
    workers = children(process.process.pid)
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(worker, number)
    code, _, errors = process.end()
    assert code == 0 and len(workers) >= 2, errors
    assert same(run, unbroken)
    assert not any(map(is_alive, workers)), "they end with the run"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes that nobody stopped."""
    folder = tmp_path_factory.mktemp("pair")
    code, _, errors = started(train_config(folder / "run", **SETTINGS), folder, processes=2).end()
    assert code == 0, errors
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "rank 1", "launcher"])
def test_of_several_processes_all_stop_after_the_same_step(
    tmp_path: Path, pair: Path, whom: str
) -> None:
    """Wherever the signal arrives; with loader workers where it goes to all."""
    run = tmp_path / "run"
    config = train_config(run, **(WITH_WORKERS if whom == "all" else SETTINGS))
    process = started(config, tmp_path, processes=2)
    wait_for_steps(process, run, EPOCH + 3)
    ranks = [process.worker(rank) for rank in range(2)]
    if whom == "all":
        process.stop_all(signal.SIGTERM)
    elif whom == "launcher":
        process.stop(signal.SIGTERM)
    else:
        os.kill(ranks[1], signal.SIGUSR1)
    code, _, errors = process.end(60)
    name = "SIGUSR1" if whom == "rank 1" else "SIGTERM"
    assert code != 0 and is_told(errors.partition("Traceback")[0], name, run), errors
    assert len(steps(run)) == kept_step(run) >= EPOCH + 3
    assert not any(map(is_alive, ranks))
    code, _, errors = started(
        replace(config, compute=SETTINGS.get("compute", config.compute)), tmp_path, processes=2
    ).end()
    assert code == 0 and same(run, pair), errors


@pytest.mark.slow
def test_tasks_of_srun_train_together(tmp_path: Path, pair: Path) -> None:
    """By Slurm's variables, two tasks on this machine; there is no Slurm."""
    words = words_of(train_config(tmp_path / "run", **SETTINGS), tmp_path)
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    step["SLURM_JOB_ID"] = str(os.getpid())
    tasks = []
    for rank in range(2):
        own = {**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        tasks.append(command(*words, folder=tmp_path, environment=own, method="fork"))
    (code, out, errors), (other_code, other_out, _) = (task.end() for task in tasks)
    assert (code, other_code) == (0, 0), errors
    assert "top1" in out and not other_out, "rank 0 prints the result"
    assert same(tmp_path / "run", pair)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_a_stop_in_the_evaluation_costs_no_step_and_goes_on_with_it(
    tmp_path: Path, processes: int
) -> None:
    quick = {**SETTINGS, "epochs": 1, "eval_data": "tiny_models:slow_digits,seconds=0"}
    train(tmp_path / "unbroken", **quick)
    run = tmp_path / "run"
    slow = train_config(run, **{**quick, "eval_data": "tiny_models:slow_digits,seconds=0.03"})
    process = started(slow, tmp_path, processes)
    wait_until((run / "last.pt").exists, process)
    process.stop_all(signal.SIGTERM)
    code, _, errors = process.end(60)
    assert (
        code != 0
        and kept_step(run) == EPOCH
        and is_told(errors.partition("Traceback")[0], "SIGTERM", run)
    ), errors
    assert [line["kind"] for line in read_metrics(run / "metrics.jsonl")].count("epoch") == 0
    train(run, **quick)
    if not processes:
        assert same(run, tmp_path / "unbroken")
    assert losses(run) == pytest.approx(losses(tmp_path / "unbroken"), rel=1e-3)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["kind"] for line in lines].count("epoch") == 1 and "top1" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_a_stop_while_units_are_waited_for_ends_at_once(tmp_path: Path, processes: int) -> None:
    """To one process of two: the other waits for the same."""
    cache, run = tmp_path / "cache", tmp_path / "run"
    dump(cache, seeds="0:1")
    settings = {
        **SETTINGS,
        "recipe": None,
        "cache": str(cache),
        "loss": "kl:tau=4",
        "eval_data": None,
    }
    waiting = train_config(run, **settings, seeds="0:2", wait_for_units=600.0)
    process = started(waiting, tmp_path, processes)
    wait_until(lambda: (run / "last.pt").exists() and kept_step(run) == EPOCH, process)
    time.sleep(0.5)
    pid = process.worker(1) if processes else process.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    code, _, errors = process.end(30)
    assert code != 0 and is_told(errors.partition("Traceback")[0], "SIGTERM", run), errors
    assert kept_step(run) == EPOCH


@pytest.mark.slow
def test_loader_workers_do_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(train_config(run, **WITH_WORKERS), tmp_path)
    wait_for_steps(process, run, 3)
    workers = children(process.process.pid)
    process.stop(signal.SIGKILL)
    process.end()
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "they are left behind"
        time.sleep(0.1)
