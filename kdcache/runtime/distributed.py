"""What the joined processes of one run do together: sums over all, and what rank 0 does for the
others.

Every function here but `rank`, `world_size` and `is_main` must be called by all processes, in the
same order, in the main thread. A process that runs alone needs none of it: the functions then do
nothing, at no cost.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError
from kdcache.runtime import stopping
from kdcache.runtime.joining import joined_processes
from kdcache.runtime.launch import Place, own_place
from kdcache.runtime.process_group import (
    GONE,
    control_group,
    is_main,
    largest,
    meet,
    rank,
    sent_by,
    stop_together,
    world_size,
)
from kdcache.runtime.waiting import in_background, waiting

__all__ = [
    "Place",
    "StopLook",
    "all_counts",
    "all_rows",
    "all_sum",
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

_LOOK_SECONDS = 1.0
_MOST_STEPS = 1000
_WORDS_OF_OTHERS = ("gloo", "NCCL", "Connection", "connection")
"""What tells torch's errors about other processes from those about tensors."""


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


def all_counts(count: int, device: torch.device) -> list[int]:
    """Return a number of each process, by rank, after a wait for the device over which they
    travel."""
    if world_size() == 1:
        return [count]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = count
    numbers: list[int] = all_sum(counts).tolist()
    return numbers


def all_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows of all processes, of rank 0 first, on the device of `rows`; these themselves
    if there is one process. Their gradient comes back as that of `all_sum` does.

    Args:
        rows: of this process.
        counts: how many each process has, see `all_counts`; by default they are asked.
    """
    if world_size() == 1:
        return rows
    if counts is None:
        counts = all_counts(len(rows), rows.device)
    start = sum(counts[: rank()])
    places = torch.arange(start, start + len(rows), device=rows.device)
    of_all = rows.new_zeros(sum(counts), *rows.shape[1:]).index_copy(0, places, rows)
    return all_sum(of_all)


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
    meet(None, what, stops=False)
    return sent_by(0, value)


def gather(value: T, what: str) -> list[T]:
    """Return the value of each process, which can be pickled, by rank, in every process."""
    if world_size() == 1:
        return [value]
    meet(None, what, stops=False)
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value, group=control_group())
    return values


def raise_together(error: KdcacheError | None, what: str) -> None:
    """Raise the error of the first process that has one in every process; do nothing if none has.

    Raises:
        KdcacheError: that error; one process tells it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    for number, first_error in enumerate(gather(error, what)):
        if first_error is not None:
            _raise_as(first_error, number)


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
    failure = meet(future, what, stops=True)
    _raise_failure(future, failure)
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
    a second: rank 0 measures how long steps take, and proposes after how many the next look comes.
    """

    def __init__(self) -> None:
        self._steps_to_go = 1
        self._interval = 1
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Look, if it is time; all processes must call it equally often.

        Raises:
            StoppedError: a process was told to stop.
        """
        if world_size() > 1:
            self._steps_to_go -= 1
            if self._steps_to_go:
                return
            proposal = 0
            if is_main():
                proposal = self._proposal()
            number, self._interval = largest([stopping.stop_requested(), proposal])
            self._steps_to_go = self._interval
            stopping.take(number)
        stop_together()

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
        raise KdcacheError(GONE) from error


def is_of_others(error: RuntimeError) -> bool:
    """Return whether an error is that a message to or from another process did not get through."""
    message = str(error)
    return any(word in message for word in _WORDS_OF_OTHERS)


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


def _long_on_main(function: Callable[[], T], what: str) -> T:
    future: Future[T] | None = None
    if is_main():
        future = in_background(_saying(function, what))
    failure = meet(future, what, stops=True)
    _raise_failure(future, failure)
    result: T | None = None
    if future is not None:
        result = future.result()
    if world_size() > 1:
        result = sent_by(0, result)
    return result  # type: ignore[return-value]


def _saying(function: Callable[[], T], what: str) -> Callable[[], T]:
    def call() -> T:
        with waiting(what):
            return function()

    return call


def _raise_failure(future: "Future[Any] | None", failure: int) -> None:
    """Raise what a process's work raised in all processes, if one failed.

    Args:
        future: the work of this process.
        failure: the number of the process that failed, -1 for none.
    """
    if failure < 0:
        return
    error: BaseException | None = None
    if future is not None and failure == rank():
        error = future.exception()
    message: KdcacheError | None = None
    if isinstance(error, KdcacheError):
        message = error
    if world_size() > 1:
        message = sent_by(failure, message)
    if error is not None:
        raise error
    _raise_as(message or KdcacheError(GONE), failure)


def _raise_as(error: KdcacheError, number: int) -> None:
    error.is_told_elsewhere = rank() != number
    raise error


def host_name() -> str:
    """Return the name of this machine, for messages."""
    return socket.gethostname()
