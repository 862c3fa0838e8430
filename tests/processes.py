"""Real processes that are joined as torchrun joins them, without its seconds of start."""

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
import torch
from nursery import fork_server, take
from torch.distributed import TCPStore

from kdcache.runtime import joining
from kdcache.runtime.distributed import joined_processes
from kdcache.runtime.launch import PLACES

_LONGEST = 120


def in_environment(patch: pytest.MonkeyPatch, **variables: str) -> None:
    """Have the variables of a launcher that are given, and no others."""
    told = {
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_STEP_NODELIST",
        "SLURM_JOB_NODELIST",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
    }
    for name in told | {name for names in PLACES for name in names}:
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


def launch(
    function: Callable[..., Any],
    processes: int,
    *arguments: Any,
    compute_seconds: float | None = None,
) -> list[Any]:
    """Call `function(*arguments)` in each of several joined processes, and return what each gave,
    rank 0's first.

    With `compute_seconds` sums of gradients may not take longer.
    """
    children, ends = launched(function, processes, *arguments, compute_seconds=compute_seconds)
    try:
        for end in ends:
            assert end.poll(_LONGEST), "a process hangs"
        return [pickle.loads(end.recv_bytes()) for end in ends]  # noqa: S301
    finally:
        for child in children:
            child.kill()
            child.join()


def launched(
    function: Callable[..., Any],
    processes: int,
    *arguments: Any,
    compute_seconds: float | None = None,
) -> tuple[list[ForkServerProcess], list[Connection]]:
    """Start `function(*arguments)` in several joined processes; return these, and what each sends
    its result through."""
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )  # the launcher's, as with torchrun: no race for a port
    _stores.append(store)
    context, children, ends = fork_server(), [], []
    for rank in range(processes):
        here, there = context.Pipe(duplex=False)
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": processes,
            "MASTER_PORT": store.port,
        }
        environment = os.environ | {name: str(value) for name, value in place.items()}
        work = (there, environment, function, pickle.dumps(arguments), compute_seconds)
        child = context.Process(target=_work, args=work, daemon=True)
        child.start()
        there.close()
        children.append(child)
        ends.append(here)
    return children, ends


_stores: list[TCPStore] = []


def _work(
    end: Connection,
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: bytes,
    compute_seconds: float | None,
) -> None:
    take(environment)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0"
    )
    torch.set_num_threads(1)
    if compute_seconds is not None:
        joining._COMPUTE_TIMEOUT = timedelta(seconds=compute_seconds)
    with joined_processes("cpu"):
        # pickled here and above, for multiprocessing itself would let processes share the memory of
        # tensors
        end.send_bytes(pickle.dumps(function(*pickle.loads(arguments))))  # noqa: S301
