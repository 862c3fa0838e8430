"""How processes join at their meeting and part again, and a watch over one that is gone."""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch.distributed import (  # type: ignore[attr-defined] # they are there
    PrefixStore,
    ProcessGroup,
    Store,
    TCPStore,
)
from torch.distributed.rendezvous import rendezvous

from kdcache.errors import KdcacheError
from kdcache.runtime.launch import Meeting, find_meeting
from kdcache.runtime.process_group import (
    GONE,
    control_group,
    forget_control_group,
    new_control_group,
    rank,
    world_size,
)
from kdcache.runtime.waiting import waiting

_JOIN_TIMEOUT = timedelta(minutes=30)
"""How long the others may take to start."""
_COMPUTE_TIMEOUT = timedelta(days=1)
"""How long a process may wait for the others' gradients: as long as these may wait for views."""
_TRY_SECONDS = 5.0  # between two looks at signals while the others are not there yet
_POLL_SECONDS = 0.02  # between two looks how many are there
_GRACE_SECONDS = 60.0  # for a process to end by itself after another one is gone
_joins = itertools.count()
"""A launcher's store stays: what one training writes there is not for the next one."""


@contextmanager
def joined_processes(device_name: str) -> Iterator[None]:
    """Join the processes that torchrun or srun started with this one, to the end of the block.

    Alone do nothing.

    After an error a process leaves without waiting for the others, which then end too.

    Args:
        device_name: `cuda` (NCCL; the process's GPU is the one of its local rank), `cuda:N` (NCCL;
            it is that one) or `cpu` (Gloo).

    Raises:
        UsageError: a launcher's variables say that there are others, and not how to join them.
        KdcacheError: the others cannot be reached, or there is no GPU for this process.
    """
    meeting = find_meeting()
    if meeting is None:
        yield
        return
    _join(meeting, device_name)
    watch = _Watch()
    is_finished = False
    try:
        yield
        is_finished = True
    finally:
        watch.end(in_good_order=is_finished)
        # NCCL would first wait for sums that the others may never send
        _leave(waits=is_finished or not _is_gpu(device_name))


class _Watch:
    """Ends this process when another one is gone, though it may wait for it in the GPU's driver.

    In a ring each process waits for a last message of the one before it. NCCL notices a dead peer
    only by its timeout, and not every launcher ends the others.
    """

    def __init__(self) -> None:
        self._group: ProcessGroup | None = None
        self._is_ending = False
        if world_size() == 1:
            return
        self._group = new_control_group()
        threading.Thread(target=self._run, name="kdcache-watch", daemon=True).start()

    def end(self, *, in_good_order: bool) -> None:
        """Let the process after this one know that it is not missed."""
        self._is_ending = True
        if self._group is not None and in_good_order:
            following = (rank() + 1) % world_size()
            with contextlib.suppress(RuntimeError):  # one that is gone already
                torch.distributed.send(torch.zeros(1), following, group=self._group)

    def _run(self) -> None:
        before = (rank() - 1) % world_size()
        try:
            torch.distributed.recv(torch.zeros(1), before, group=self._group)
        except RuntimeError:
            time.sleep(_GRACE_SECONDS)
            if not self._is_ending:
                sys.stderr.write(f"kdcache: error: {GONE}\n")
                os._exit(1)  # the main thread may be where nothing reaches it


def _join(meeting: Meeting, device_name: str) -> None:
    place = meeting.place
    device = None
    backend = "gloo"
    try:
        if _is_gpu(device_name):
            device = _own_device(meeting, device_name)
            backend = "nccl"
        torch.distributed.init_process_group(
            backend,
            store=_store_of_all(meeting),
            rank=place.rank,
            world_size=place.world_size,
            timeout=_COMPUTE_TIMEOUT,
            device_id=device,
        )
        control_group()
    except (RuntimeError, ValueError) as error:
        which = f"process {place.rank} of {place.world_size}"
        reason = _reason(error)
        way_out = (
            "start all processes with torchrun or srun, as many on a machine as it has GPUs; to "
            "train alone, set WORLD_SIZE=1 and no RANK"
        )
        raise KdcacheError(f"{which} cannot join the others: {reason}; {way_out}") from error


def _reason(error: Exception) -> str:
    """Return an error in a line; NCCL says what it is in the last of several."""
    message = str(error)
    first_line = message.partition("\n")[0]
    _, _, last_error = message.partition("Last error:")
    return ": ".join([first_line, *last_error.split("\n")[1:2]])


def _is_gpu(device_name: str) -> bool:
    return device_name.startswith("cuda")


def _own_device(meeting: Meeting, device_name: str) -> torch.device:
    """Return the GPU of this process, to which it goes."""
    device = torch.device(device_name)
    if device.index is None:
        number = meeting.place.local_rank
        if meeting.shares_number:
            number %= max(torch.cuda.device_count(), 1)
        device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _store_of_all(meeting: Meeting) -> Store:
    """Return the store by which the processes find each other, when all of them are there."""
    end = time.monotonic() + _JOIN_TIMEOUT.total_seconds()
    size = meeting.place.world_size
    count = 0

    def attendance() -> str:
        return f"the other processes of this run to start: {count} of {size} are there"

    with waiting(attendance):
        store = _connected(meeting, end)
        count = store.add("joined", 1)
        while count < size:
            if time.monotonic() > end:
                raise RuntimeError(f"{count} of {size} processes are there after {_JOIN_TIMEOUT}")
            time.sleep(_POLL_SECONDS)
            count = store.add("joined", 0)
    store.set_timeout(_JOIN_TIMEOUT)
    return store


def _connected(meeting: Meeting, end: float) -> Store:
    """Return the store at the meeting's address, for which rank 0 may not have started yet."""
    if meeting.is_held:
        store, _, _ = next(rendezvous("env://", timeout=_JOIN_TIMEOUT))
        return PrefixStore(f"kdcache/{next(_joins)}", store)
    is_host = meeting.place.rank == 0
    patience = timedelta(seconds=_TRY_SECONDS)
    while True:
        try:
            return TCPStore(
                meeting.address,
                meeting.port,
                is_master=is_host,
                wait_for_workers=False,
                timeout=patience,
            )
        except RuntimeError:
            if is_host or time.monotonic() > end:
                raise


def _leave(*, waits: bool) -> None:
    forget_control_group()
    if waits:
        torch.distributed.destroy_process_group()
