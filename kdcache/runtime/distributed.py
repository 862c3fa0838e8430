"""The processes of one run, joined: who is who, sums over all, what rank 0 does for the others.

Every function here but `rank`, `world_size` and `is_main` must be called by all processes, in the
same order, in the main thread. A process that runs alone needs none of it: the functions then do
nothing, at no cost.

Gradients and their like travel in the run's own group, by NCCL or Gloo. All else, such as what rank
0 found or that a process was told to stop, travels in a **control group** of CPU tensors: no wait
in it ends by itself, it never waits for a device, and a process that is gone is noticed by its
socket.
"""

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import (  # type: ignore[attr-defined] # they are there
    PrefixStore,
    ProcessGroup,
    Store,
    TCPStore,
)
from torch.distributed.rendezvous import rendezvous

from kdcache.errors import KdcacheError, StoppedError
from kdcache.runtime import stopping
from kdcache.runtime.launch import Meeting, Place, find_meeting, own_place
from kdcache.runtime.waiting import in_background, waiting

__all__ = [
    "Place",
    "StopLook",
    "all_sum",
    "barrier",
    "broadcast_buffers",
    "broadcast_object",
    "everywhere",
    "gather",
    "is_main",
    "joined_processes",
    "on_main",
    "others_that_fail",
    "own_place",
    "raise_together",
    "rank",
    "stoppable_alone",
    "world_size",
]

T = TypeVar("T")

_JOIN_TIMEOUT = timedelta(minutes=30)
"""How long the others may take to start."""
_COMPUTE_TIMEOUT = timedelta(days=1)
"""How long a process may wait for the others' gradients: as long as these may wait for views."""
_CONTROL_TIMEOUT = timedelta(days=365)  # for ever; larger numbers overflow somewhere below
_TRY_SECONDS = 5.0  # between two looks at signals while the others are not there yet
_LONGEST_PAUSE = 1.0
_POLL_SECONDS = (0.0002, 0.02)  # first and longest pause between looks whether a message is through
_GRACE_SECONDS = 60.0  # for a process to end by itself after another one is gone
_LOOK_SECONDS = 1.0
_MOST_STEPS = 1000
_controls: dict[Any, ProcessGroup] = {}
"""The control group beside torch's own default group."""
_joins = itertools.count()
"""A launcher's store stays: what one training writes there is not for the next one."""


@contextmanager
def joined_processes(device_type: str) -> Iterator[None]:
    """Join the processes that torchrun or srun started with this one, to the end of the block.

    Alone do nothing.

    After an error a process leaves without waiting for the others, which then end too.

    Args:
        device_type: `cuda` (NCCL; the process's GPU is the one of its local rank) or `cpu` (Gloo).

    Raises:
        UsageError: a launcher's variables say that there are others, and not how to join them.
        KdcacheError: the others cannot be reached, or there is no GPU for this process.
    """
    meeting = find_meeting()
    if meeting is None:
        yield
        return
    _join(meeting, device_type)
    watch = _Watch()
    finished = False
    try:
        yield
        finished = True
    finally:
        watch.end(in_good_order=finished)
        # NCCL would first wait for sums that the others may never send
        _leave(waits=finished or device_type != "cuda")


def rank() -> int:
    """Return this process's number among those that are joined, from 0; 0 if it is alone."""
    return torch.distributed.get_rank() if _joined() else 0


def world_size() -> int:
    """Return the number of joined processes."""
    return torch.distributed.get_world_size() if _joined() else 1


def is_main() -> bool:
    """Return whether this is the process that writes the run's folder: rank 0."""
    return rank() == 0


def all_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes, on its device; the tensor itself if there is
    one process.

    The gradient that comes back is summed over the processes too. So where each of N processes adds
    the same function of the sum to its loss, each one's share of the gradient is N times what it is
    in one process, and the mean over processes, which DistributedDataParallel takes, is right.
    """
    if world_size() == 1:
        return tensor
    total: Tensor = _AllSum.apply(tensor)
    return total


def broadcast_buffers(module: nn.Module) -> None:
    """Give rank 0's buffers, such as means of batch norms, to the module in every process."""
    if world_size() > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def broadcast_object(value: T, what: str = "rank 0") -> T:
    """Return rank 0's `value`, which can be pickled, in every process; what the others give is not
    looked at."""
    if world_size() == 1:
        return value
    _meet(None, what, stops=False)
    return _sent_by(0, value)


def gather(value: T, what: str) -> list[T]:
    """Return the value of each process, which can be pickled, by rank, in every process."""
    if world_size() == 1:
        return [value]
    _meet(None, what, stops=False)
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value, group=_control())
    return values


def barrier(what: str = "the other processes") -> None:
    """Block until every process has come here."""
    if world_size() > 1:
        _meet(None, what, stops=False)


def raise_together(error: KdcacheError | None, what: str) -> None:
    """Raise the error of the first process that has one in every process; do nothing if none has.

    Raises:
        KdcacheError: that error; one process tells it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    for number, found in enumerate(gather(error, what)):
        if found is not None:
            _raise_as(found, number)


def on_main(function: Callable[[], T], what: str = "rank 0", *, is_long: bool = False) -> T:
    """Call `function` in rank 0 while the others wait; return its result, which can be pickled, in
    every process.

    Args:
        function: what is done.
        what: that the others say they wait for.
        is_long: whether it may take minutes: it is then done in a thread, and all processes look
            for a stop meanwhile.

    Raises:
        KdcacheError: what `function` raised, in every process.
        StoppedError: of a long one, if a process was told to stop.
    """
    if is_long:
        return _long_on_main(function, what)
    if world_size() == 1:
        return function()
    result: T | None = None
    error: KdcacheError | None = None
    if is_main():
        try:
            result = function()
        except KdcacheError as raised:
            error = raised
    result, error = broadcast_object((result, error), what)
    if error is not None:
        _raise_as(error, 0)
    return result  # type: ignore[return-value]


def everywhere(function: Callable[[], T], what: str) -> T:
    """Call `function` in a thread of every process; return this one's result when all are done.

    Meanwhile all processes look for a stop, and say what they wait for.

    Raises:
        KdcacheError: what `function` raised in the last process that failed, in every process.
        StoppedError: a process was told to stop.
    """
    future = in_background(_saying(function, what))
    failed = _meet(future, what, stops=True)
    _raise_failure(future, failed)
    return future.result()


@contextmanager
def stoppable_alone() -> Iterator[None]:
    """Let a signal end the block at once if no other process would wait for this one.

    Several agree at a look, before or after.

    Raises:
        StoppedError: it came.
    """
    if world_size() > 1:
        yield
        return
    with stopping.at_once():
        yield


class StopLook:
    """Looks whether a process was told to stop, so that all of them see it after the same step.

    Alone it looks at every call, which costs nothing. Several send each other a number, about once
    a
    second: rank 0 measures how long steps take, and proposes after how many the next look comes.
    """

    def __init__(self) -> None:
        self._left = 1
        self._interval = 1
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Look, if it is time; all processes must call it equally often.

        Raises:
            StoppedError: a process was told to stop.
        """
        if world_size() > 1:
            self._left -= 1
            if self._left:
                return
            proposal = self._proposal() if is_main() else 0
            number, self._interval = _largest([stopping.stop_requested(), proposal])
            self._left = self._interval
            stopping.take(number)
        _stop_together()

    def _proposal(self) -> int:
        """Return the number of steps that take about a second.

        It grows fourfold at most: the first steps are slow.
        """
        now = time.monotonic()
        seconds = (now - self._last) / self._interval
        self._last = now
        steps = round(_LOOK_SECONDS / max(seconds, 1e-6))
        return min(max(steps, 1), 4 * self._interval, _MOST_STEPS)


@contextmanager
def others_that_fail() -> Iterator[None]:
    """Tell in one line when this process fails because another has left.

    Raises:
        KdcacheError: a message to or from another process did not get through.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not is_of_others(error):
            raise
        raise KdcacheError(_GONE) from error


_GONE = "another process of this run has ended, and says why; run the same command again to go on"


def is_of_others(error: RuntimeError) -> bool:
    """Return whether an error is that a message to or from another process did not get through."""
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection", "connection"))


class _AllSum(torch.autograd.Function):
    """A sum over processes whose gradient is a sum over processes (torch.distributed.nn has one,
    and deprecates it)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)


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
        self._group = _control_group()
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
                sys.stderr.write(f"kdcache: error: {_GONE}\n")
                os._exit(1)  # the main thread may be where nothing reaches it


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _join(meeting: Meeting, device_type: str) -> None:
    place = meeting.place
    settings: dict[str, Any] = {
        "rank": place.rank,
        "world_size": place.world_size,
        "timeout": _COMPUTE_TIMEOUT,
    }
    try:
        device = _own_device(meeting) if device_type == "cuda" else None
        settings["store"] = _store_of_all(meeting)
        settings["backend"] = "gloo" if device is None else "nccl"
        torch.distributed.init_process_group(device_id=device, **settings)
        _control()
    except (RuntimeError, ValueError) as error:
        which = f"process {place.rank} of {place.world_size}"
        reason = str(error).partition("\n")[0]
        way_out = (
            "start all processes with torchrun or srun, as many on a machine as it has GPUs; to "
            "train alone, set WORLD_SIZE=1 and no RANK"
        )
        raise KdcacheError(f"{which} cannot join the others: {reason}; {way_out}") from error


def _control() -> ProcessGroup:
    """Return the control group; it is made at its first use where others have joined the
    processes, as a program that reads a cache in its own loop does."""
    default = torch.distributed.group.WORLD
    if default not in _controls:
        _controls.clear()
        _controls[default] = _control_group()
    return _controls[default]


def _control_group() -> ProcessGroup:
    group = torch.distributed.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)
    assert isinstance(group, ProcessGroup), "every process is in it"
    return group


def _own_device(meeting: Meeting) -> torch.device:
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
    there = 0
    with waiting(lambda: f"the other processes of this run to start: {there} of {size} are there"):
        store = _connected(meeting, end)
        there = store.add("joined", 1)
        while there < size:
            if time.monotonic() > end:
                raise RuntimeError(f"{there} of {size} processes are there after {_JOIN_TIMEOUT}")
            time.sleep(_POLL_SECONDS[1])
            there = store.add("joined", 0)
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
    _controls.clear()
    if waits:
        torch.distributed.destroy_process_group()


def _meet(future: "Future[Any] | None", what: str, *, stops: bool) -> int:
    """Block until the work of every process is done, or one failed; return which, -1 for none.

    All processes send each other a few numbers again and again, at most a second apart, so that
    each knows of the others.
    """
    pause = _POLL_SECONDS[0]
    while True:
        has_failed = future is not None and future.done() and future.exception() is not None
        is_pending = future is not None and not future.done()
        mine = [stopping.stop_requested(), int(is_pending), rank() if has_failed else -1]
        number, pending, failed = _largest(mine, what)
        if stops and number:
            stopping.take(number)
            _stop_together()
        if failed >= 0 or not pending:
            return failed
        pause = min(2 * pause, _LONGEST_PAUSE)
        if future is not None:
            wait_for_futures([future], timeout=pause)


def _stop_together() -> None:
    """Stop if a process was told to; all of them are here, and one tells it."""
    try:
        stopping.look()
    except StoppedError as error:
        error.is_told_elsewhere = not is_main()
        raise


def _largest(values: Sequence[int], what: str = "the other processes") -> list[int]:
    """Return the largest of each value over all processes."""
    if world_size() == 1:
        return [*values]
    tensor = torch.tensor(values, dtype=torch.int64)
    largest = torch.distributed.ReduceOp.MAX
    work = torch.distributed.all_reduce(tensor, largest, group=_control(), async_op=True)
    _await(work, what)
    return [int(value) for value in tensor.tolist()]


def _await(work: Any, what: str) -> None:
    """Block until a message is through; signals are heard, to which torch's own wait is deaf."""
    pause, longest = _POLL_SECONDS
    with waiting(f"the other processes ({what})"):
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, longest)
    work.wait()


def _long_on_main(function: Callable[[], T], what: str) -> T:
    future = in_background(_saying(function, what)) if is_main() else None
    failed = _meet(future, what, stops=True)
    _raise_failure(future, failed)
    result = future.result() if future is not None else None
    return result if world_size() == 1 else _sent_by(0, result)  # type: ignore[return-value]


def _saying(function: Callable[[], T], what: str) -> Callable[[], T]:
    def call() -> T:
        with waiting(what):
            return function()

    return call


def _raise_failure(future: "Future[Any] | None", failed: int) -> None:
    """Raise what a process's work raised in all processes, if one failed."""
    if failed < 0:
        return
    error = future.exception() if future is not None and failed == rank() else None
    told = error if isinstance(error, KdcacheError) else None
    if world_size() > 1:
        told = _sent_by(failed, told)
    if error is not None:
        raise error
    _raise_as(told or KdcacheError(_GONE), failed)


def _raise_as(error: KdcacheError, number: int) -> None:
    error.is_told_elsewhere = rank() != number
    raise error


def _sent_by(number: int, value: T) -> T:
    """Return a process's value in all processes, which are all here by now."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=number, group=_control())
    return values[0]


def host_name() -> str:
    """Return the name of this machine, for messages."""
    return socket.gethostname()
