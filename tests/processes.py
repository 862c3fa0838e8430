"""Real processes that are joined as torchrun joins them, without its seconds of start."""

import os
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from nursery import fork_server, take
from torch.distributed import TCPStore

from kdcache.distributed import joined_processes

_LONGEST = 120


def launch(function: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` in each of several joined processes, and return what each gave, rank 0's first."""
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )  # the launcher's, as with torchrun: no race for a port
    context, children, ends = fork_server(), [], []
    for rank in range(processes):
        here, there = context.Pipe(duplex=False)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": store.port}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        child = context.Process(target=_work, args=(there, environment, function, pickle.dumps(arguments)), daemon=True)
        child.start()
        there.close()
        children.append(child)
        ends.append(here)
    try:
        for end in ends:
            assert end.poll(_LONGEST), "a process hangs"
        return [pickle.loads(end.recv_bytes()) for end in ends]  # noqa: S301
    finally:
        for child in children:
            child.kill()
            child.join()


def _work(end: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: bytes) -> None:
    take(environment)
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    torch.set_num_threads(1)
    with joined_processes("cpu"):
        # pickled here and above, for multiprocessing itself would let processes share the memory of tensors
        end.send_bytes(pickle.dumps(function(*pickle.loads(arguments))))  # noqa: S301
