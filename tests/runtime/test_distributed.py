"""Processes of one run: joined as torchrun joins them, alone without it, and told of each other's
errors."""

import io
import os
import pickle
import re
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import torchrun
from processes import in_environment, launch, launched

from kdcache import errors
from kdcache.errors import KdcacheError, MismatchError, StoppedError
from kdcache.runtime import joining, waiting
from kdcache.runtime.distributed import (
    StopLook,
    all_sum,
    broadcast_object,
    everywhere,
    gather,
    is_main,
    joined_processes,
    on_main,
    own_place,
    raise_together,
    rank,
    world_size,
)
from kdcache.runtime.launch import find_meeting
from kdcache.runtime.stopping import heeding


def refuse() -> None:
    raise MismatchError("run here was started otherwise; choose a new folder")


def everything() -> dict[str, Any]:
    gather(None, "the others")
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
            "gradient": [
                processes * 2 * total,
                processes * 20 * total,
            ],  # each process's square of the sum asks for its share
            "received": {"from": 0, "tensor": [0, 1, 2]},
            "calls": [0] if number == 0 else [],
            "result": {"rank": 0},
            "told": "run here was started otherwise; choose a new folder",
            "not changed": [number + 1, 10 * (number + 1)],
        }


@pytest.mark.parametrize(
    ("name", "expected"), [("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cuda:3", "cuda:3")]
)
def test_a_process_goes_to_the_gpu_that_is_named_or_to_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    in_environment(monkeypatch, RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", **variables)
    meeting = find_meeting()
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert meeting is not None
    assert joining._own_device(meeting, name) == torch.device(expected)
    assert chosen == [torch.device(expected)]


def test_what_nccl_says_last_is_told() -> None:
    error = RuntimeError("""NCCL error in: NCCLUtils.cpp:94, invalid usage, NCCL version 2.28.9
ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
Last error:
Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 2000""")
    assert joining._reason(error) == (
        "NCCL error in: NCCLUtils.cpp:94, invalid usage, NCCL version 2.28.9: Duplicate GPU"
        " detected : rank 1 and rank 0 both on CUDA device 2000"
    )
    assert joining._reason(RuntimeError("refused\n#0 main")) == "refused"


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    value, leaf = object(), torch.ones(3)
    with joined_processes("cpu"):
        assert not torch.distributed.is_initialized()
        assert (rank(), world_size(), own_place().local_rank, is_main()) == (0, 1, 0, True)
        assert (
            all_sum(leaf) is leaf
            and broadcast_object(value) is value
            and on_main(lambda: value) is value
        )
        assert gather(value, "the others") == [value]
        with pytest.raises(MismatchError, match="choose a new folder"):
            on_main(refuse)


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({"LOCAL_RANK": "99"}, "cuda", ""),
        ({"WORLD_SIZE": "2"}, "cpu", "1 of 2 processes are there after"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1"}, "cpu", ""),
    ],
)
def test_who_cannot_join_is_told(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], device: str, reason: str
) -> None:
    monkeypatch.setattr(joining, "_JOIN_TIMEOUT", timedelta(seconds=0.2))
    monkeypatch.setattr(joining, "_TRY_SECONDS", 0.2)
    alone = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    settings = {**alone, **changes}
    in_environment(monkeypatch, **settings)
    which = f"process {settings['RANK']} of {settings['WORLD_SIZE']}"
    message = rf"^{which} cannot join the others: .*{reason}.*; start all processes with torchrun"
    with pytest.raises(KdcacheError, match=message), joined_processes(device):
        pass
    assert not torch.distributed.is_initialized()


def test_an_error_leaves_no_group_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(
        monkeypatch,
        RANK="0",
        WORLD_SIZE="1",
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",
    )
    for error in (MismatchError, KeyboardInterrupt):
        with pytest.raises(error), joined_processes("cpu"):
            assert torch.distributed.is_initialized() and world_size() == 1
            raise error("stop")
        assert not torch.distributed.is_initialized()


def test_every_error_of_ours_survives_the_way_to_another_process() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, KdcacheError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("one line")))  # noqa: S301
        assert type(error) is kind and str(error) == "one line"


# waits


def heard(seconds: float) -> io.StringIO:
    """Have this process say what it waits for every `seconds`; return where."""
    waiting.LINE_SECONDS = seconds
    sys.stderr = io.StringIO()
    return sys.stderr


def waits_long(seconds: float) -> dict[str, Any]:
    """Have rank 0 work longer than a sum of gradients may take, in each way in which the others can
    wait for it."""
    said = heard(0.3)

    def work() -> int:
        time.sleep(seconds if is_main() else 0.0)
        return rank()

    found = [
        on_main(work, "its folder"),
        on_main(work, "its cache", is_long=True),
        everywhere(work, "its slab"),
    ]
    if is_main():
        time.sleep(seconds)
    gather(None, "the checkpoint")
    total = float(all_sum(torch.ones(1)))
    return {"found": found, "total": total, "said": said.getvalue()}


def test_no_wait_ends_by_itself_and_each_process_says_what_it_waits_for() -> None:
    main, other = launch(waits_long, 2, 1.2, compute_seconds=0.6)
    assert (
        main["found"] == [0, 0, 0]
        and other["found"] == [0, 0, 1]
        and main["total"] == other["total"] == 2
    )
    for what in ("its folder", "its cache", "its slab", "the checkpoint"):
        assert re.search(
            rf"^rank 1: waiting for the other processes \({what}\) \(\d+ s so far\)$",
            other["said"],
            re.MULTILINE,
        )
    for what in ("its cache", "its slab"):
        assert f"rank 0: waiting for {what} (" in main["said"]


def fails_in_one(number: int) -> dict[str, Any]:
    def work() -> None:
        if rank() == number:
            raise MismatchError(f"rank {rank()} has other data")

    found = {}
    for name, call in {
        "everywhere": lambda: everywhere(work, "work"),
        "raise_together": lambda: raise_together(
            MismatchError("rank 1") if rank() == number else None, "work"
        ),
    }.items():
        try:
            call()
        except MismatchError as error:
            found[name] = (str(error), error.is_told_elsewhere)
    return found


def test_an_error_of_any_process_is_that_of_all_and_told_once() -> None:
    found = launch(fails_in_one, 3, 1)
    for number, told in enumerate(found):
        assert told["everywhere"] == ("rank 1 has other data", number != 1)
        assert told["raise_together"] == ("rank 1", number != 1)


def told_to_stop(way: str) -> tuple[int, str]:
    """Send rank 1 a signal; return the step at which this process stops, and what it tells."""
    look, step = StopLook(), 0
    try:
        with heeding(lambda: f" after step {step}"):
            while way == "steps":
                step += 1
                if rank() == 1 and step == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.02 if rank() else 0.0)
                look()
            if rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            on_main(lambda: time.sleep(3600), "units", is_long=True)
    except StoppedError as error:
        return error.exit_code, str(error)
    raise AssertionError


@pytest.mark.parametrize("way", ["steps", "a wait"])
def test_all_processes_stop_at_the_same_look_wherever_the_signal_arrives(way: str) -> None:
    one, other = launch(told_to_stop, 2, way)
    assert one == other and one[0] == 143 and one[1].startswith("stopped by SIGTERM after step ")
    assert way != "steps" or int(one[1].split()[5].rstrip(";")) >= 7


def goes_away() -> None:
    joining._GRACE_SECONDS = 0.1
    gather(None, "the others")
    if rank() == 1:
        os._exit(3)
    time.sleep(3600)  # as in a driver that waits for the other


def test_a_process_does_not_wait_for_one_that_is_gone() -> None:
    children, _ = launched(goes_away, 2)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [1, 3]


SCRIPT = """
import sys
from kdcache.runtime.distributed import all_sum, joined_processes, rank
from kdcache.errors import KdcacheError
import torch
try:
    with joined_processes("cpu"):
        sys.stdout.write(f"sum {int(all_sum(torch.tensor(rank() + 1)))}\\n")  # in one piece: both write at once
        if rank() == 1:
            raise KdcacheError("one of us fails")
        all_sum(torch.ones(1))
except KdcacheError as error:
    sys.exit(str(error))
"""


def test_one_that_fails_under_torchrun_ends_all(tmp_path: Path) -> None:
    """Under torchrun itself; of what succeeds under it, see `tests/train/test_processes.py`."""
    (tmp_path / "script.py").write_text(SCRIPT)
    start = time.monotonic()
    code, printed, told = torchrun(str(tmp_path / "script.py"), folder=tmp_path).end()
    assert time.monotonic() - start < 60, "the others wait for the one that failed"
    assert printed.count("sum 3") == 2
    assert code != 0 and "one of us fails" in told
