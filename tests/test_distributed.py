"""Processes of one run: joined as torchrun joins them, alone without it, and told of each other's errors."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launch

from kdcache import errors
from kdcache.distributed import (
    _PLACES,
    Place,
    all_sum,
    barrier,
    broadcast_object,
    is_main,
    joined_processes,
    on_main,
    own_place,
    rank,
    world_size,
)
from kdcache.errors import KdcacheError, MismatchError, UsageError


def refuse() -> None:
    raise MismatchError("run here was started otherwise; choose a new folder")


def everything() -> dict[str, Any]:
    barrier()
    leaf = torch.tensor([1.0, 10.0]).mul(rank() + 1).requires_grad_()
    total = all_sum(leaf)
    (total**2).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    calls: list[int] = []

    def call() -> dict[str, int]:
        calls.append(rank())
        return {"rank": rank()}

    result = on_main(call)
    try:
        on_main(refuse)
        told = "nothing"
    except MismatchError as error:
        told = str(error)
    return {
        "who": (rank(), world_size(), own_place().local_rank, is_main()),
        "sum": total.tolist(),
        "gradient": leaf.grad.tolist(),
        "received": broadcast_object({"from": rank(), "tensor": torch.arange(3).tolist()}),
        "calls": calls,
        "result": result,
        "told": told,
        "not changed": leaf.tolist(),
    }


@pytest.mark.parametrize("processes", [1, 3])
def test_what_processes_do_together(processes: int) -> None:
    total = processes * (processes + 1) / 2
    for number, found in enumerate(launch(everything, processes)):
        assert found == {
            "who": (number, processes, number, number == 0),
            "sum": [total, 10 * total],
            "gradient": [processes * 2 * total, processes * 20 * total],  # each process's square of the sum asks for its share
            "received": {"from": 0, "tensor": [0, 1, 2]},
            "calls": [0] if number == 0 else [],
            "result": {"rank": 0},
            "told": "run here was started otherwise; choose a new folder",
            "not changed": [number + 1, 10 * (number + 1)],
        }


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    value, leaf = object(), torch.ones(3)
    with joined_processes("cpu"):
        assert not torch.distributed.is_initialized()
        assert (rank(), world_size(), own_place().local_rank, is_main()) == (0, 1, 0, True)
        assert all_sum(leaf) is leaf and broadcast_object(value) is value and on_main(lambda: value) is value
        barrier()
        with pytest.raises(MismatchError, match="choose a new folder"):
            on_main(refuse)


def in_environment(patch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in {"MASTER_ADDR", "MASTER_PORT"} | {name for names in _PLACES for name in names}:
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, Place(0, 1, 0)),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Place(9, 16, 1)),
        ({"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1"}, Place(9, 16, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Place(2, 4, 2)),
        ({"JOB_COMPLETION_INDEX": "5", "WORLD_SIZE": "8"}, Place(5, 8, 0)),
        ({"JOB_COMPLETION_INDEX": "5"}, Place(0, 1, 0)),  # nobody says of how many
    ],
)
def test_the_place_that_a_launcher_gives(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: Place) -> None:
    in_environment(monkeypatch, **variables)
    assert own_place() == found


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "^RANK=one, WORLD_SIZE=2, LOCAL_RANK=0 in the environment must be numbers; unset"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "2"}, "SLURM_PROCID=2, SLURM_NTASKS=2, .*the rank must be below the count"),
    ],
)
def test_a_place_that_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    in_environment(monkeypatch, **variables)
    with pytest.raises(UsageError, match=message):
        own_place()


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({}, "cpu", "MASTER_PORT"),
        ({"MASTER_PORT": "0", "WORLD_SIZE": "two"}, "cpu", "'two'"),
        ({"MASTER_PORT": "0", "LOCAL_RANK": "99"}, "cuda", ""),
    ],
)
def test_who_cannot_join_is_told(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], device: str, reason: str) -> None:
    settings = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", **changes}
    in_environment(monkeypatch, **settings)
    message = rf"^process 0 of {settings['WORLD_SIZE']} cannot join the others: .*{reason}.*; start all processes with torchrun"
    with pytest.raises(KdcacheError, match=message), joined_processes(device):
        pass
    assert not torch.distributed.is_initialized()


def test_an_error_leaves_no_group_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    for error in (MismatchError, KeyboardInterrupt):
        with pytest.raises(error), joined_processes("cpu"):
            assert torch.distributed.is_initialized() and world_size() == 1
            raise error("stop")
        assert not torch.distributed.is_initialized()


def test_every_error_of_ours_survives_the_way_to_another_process() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KdcacheError)]
    assert len(kinds) > 10
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("one line")))  # noqa: S301
        assert type(error) is kind and str(error) == "one line"


SCRIPT = """
import sys
from kdcache.distributed import all_sum, joined_processes, rank
from kdcache.errors import KdcacheError
import torch
try:
    with joined_processes("cpu"):
        sys.stdout.write(f"sum {int(all_sum(torch.tensor(rank() + 1)))}\\n")  # in one piece: both write at once
        if rank() == 1 and sys.argv[1] == "fail":
            raise KdcacheError("one of us fails")
        all_sum(torch.ones(1))
except KdcacheError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
def test_under_torchrun(tmp_path: Path, outcome: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    start = time.monotonic()
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), outcome],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert time.monotonic() - start < 60, "the others wait for the one that failed"
    assert done.stdout.count("sum 3") == 2
    assert (done.returncode == 0) == (outcome == "succeed")
    assert ("one of us fails" in done.stderr) == (outcome == "fail")
