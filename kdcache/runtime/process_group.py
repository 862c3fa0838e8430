"""The groups of joined processes: who is who, and messages in the control group.

Gradients and their like travel in the run's own group, by NCCL or Gloo. All else, such as what rank
0 found or that a process was told to stop, travels in a **control group** of CPU tensors: no wait
in it ends by itself, it never waits for a device, and a process that is gone is noticed by its
socket.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch.distributed import ProcessGroup

from kdcache.errors import StoppedError
from kdcache.runtime import stopping
from kdcache.runtime.waiting import waiting

T = TypeVar("T")

GONE = "another process of this run has ended, and says why; run the same command again to go on"
_CONTROL_TIMEOUT = timedelta(days=365)  # for ever; larger numbers overflow somewhere below
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 1.0  # between looks whether the work of all is done
_LONGEST_POLL = 0.02  # between looks whether a message is through
_controls: dict[Any, ProcessGroup] = {}
"""The control group beside torch's own default group."""


def rank() -> int:
    """Return this process's number among those that are joined, from 0; 0 if it is alone."""
    if not _is_joined():
        return 0
    return torch.distributed.get_rank()


def world_size() -> int:
    """Return the number of joined processes."""
    if not _is_joined():
        return 1
    return torch.distributed.get_world_size()


def is_main() -> bool:
    """Return whether this is the process that writes the run's folder: rank 0."""
    return rank() == 0


def _is_joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def control_group() -> ProcessGroup:
    """Return the control group; it is made at its first use where others have joined the
    processes, as a program that reads a cache in its own loop does."""
    default = torch.distributed.group.WORLD
    if default not in _controls:
        _controls.clear()
        with waiting("the other processes, each of which must take part"):
            _controls[default] = new_control_group()
    return _controls[default]


def new_control_group() -> ProcessGroup:
    """Return another group of CPU tensors whose waits do not end by themselves."""
    group = torch.distributed.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT)
    assert isinstance(group, ProcessGroup), "every process is in it"
    return group


def forget_control_group() -> None:
    """Let go of the control group, before the processes part."""
    _controls.clear()


def meet(future: "Future[Any] | None", what: str, *, stops: bool) -> int:
    """Block until the work of every process is done, or one failed; return which, -1 for none.

    All processes send each other a few numbers again and again, at most a second apart, so that
    each knows of the others.

    Args:
        future: this process's work, None if it has none.
        what: is said while they wait.
        stops: whether a process that was told to stop ends the wait.

    Raises:
        StoppedError: a process was told to stop.
    """
    pause = _FIRST_PAUSE
    while True:
        is_pending = future is not None and not future.done()
        failure = -1
        if _has_failed(future):
            failure = rank()
        numbers = [stopping.stop_requested(), int(is_pending), failure]
        signal_number, num_pending, failure = largest(numbers, what)
        if stops and signal_number:
            stopping.take(signal_number)
            stop_together()
        if failure >= 0 or not num_pending:
            return failure
        pause = min(2 * pause, _LONGEST_PAUSE)
        if future is not None:
            wait_for_futures([future], timeout=pause)


def _has_failed(future: "Future[Any] | None") -> bool:
    return future is not None and future.done() and future.exception() is not None


def stop_together() -> None:
    """Stop if a process was told to; all of them are here, and one tells it.

    Raises:
        StoppedError: one was.
    """
    try:
        stopping.look()
    except StoppedError as error:
        error.is_told_elsewhere = not is_main()
        raise


def largest(values: Sequence[int], what: str = "the other processes") -> list[int]:
    """Return the largest of each value over all processes."""
    if world_size() == 1:
        return [*values]
    tensor = torch.tensor(values, dtype=torch.int64, device="cpu")
    operation = torch.distributed.ReduceOp.MAX
    work = torch.distributed.all_reduce(tensor, operation, group=control_group(), async_op=True)
    _await(work, what)
    return [int(value) for value in tensor.tolist()]


def _await(work: Any, what: str) -> None:
    """Block until a message is through; signals are heard, to which torch's own wait is deaf."""
    pause = _FIRST_PAUSE
    with waiting(f"the other processes ({what})"):
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)
    work.wait()


def sent_by(number: int, value: T) -> T:
    """Return a process's value in all processes, which are all here by now."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=number, group=control_group())
    return values[0]
