"""The processes of one run, as torchrun starts them: who is who, sums over all of them, and what rank 0 does for the others.

Every function here but `own_place`, `rank`, `world_size` and `is_main` must be called by all processes, in the same order.
A process that runs alone needs none of it: the functions then do nothing, at no cost.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError, UsageError

T = TypeVar("T")

_LAUNCHED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}
_PLACES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, or set by hand
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("JOB_COMPLETION_INDEX", "WORLD_SIZE", "LOCAL_RANK"),  # Kubernetes tells the index; the count is set in the job
)
_TIMEOUT = timedelta(minutes=30)  # how long the others may wait while rank 0 lists a data set or fetches a slab


@contextmanager
def joined_processes(device_type: str) -> Iterator[None]:
    """Join the processes that torchrun started with this one, to the end of the block; without torchrun do nothing.

    After an error a process leaves without waiting for the others, which the launcher then ends.

    Args:
        device_type: `cuda` (NCCL; the process's GPU is the one of its local rank) or `cpu` (Gloo).

    Raises:
        KdcacheError: the others cannot be reached, or there is no GPU for this process.
    """
    if not os.environ.keys() >= _LAUNCHED:
        yield
        return
    _join(device_type)
    finished = False
    try:
        yield
        finished = True
    finally:
        if finished or device_type != "cuda":  # NCCL would first wait for sums that the others may never send
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Place:
    """A process's place among those that were started with it, joined or not."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Its number on its machine."""


def own_place() -> Place:
    """Return this process's place among those that torchrun, srun or a Kubernetes indexed job started; (0, 1, 0) without them.

    Raises:
        UsageError: variables in the environment that are no numbers, or a rank that is not below the number of processes.
    """
    for names in _PLACES:
        texts = [os.environ.get(name) for name in names]
        if None not in texts[:2]:
            return _checked_place(dict(zip(names, [*texts[:2], texts[2] or "0"], strict=True)))
    return Place()


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
    """Return the sum of `tensor` over all processes, on its device; the tensor itself if there is one process.

    The gradient that comes back is summed over the processes too. So where each of N processes adds the same function of the
    sum to its loss, each one's share of the gradient is N times what it is in one process, and the mean over processes, which
    DistributedDataParallel takes, is right.
    """
    if world_size() == 1:
        return tensor
    total: Tensor = _AllSum.apply(tensor)
    return total


def broadcast_object(value: T) -> T:
    """Return rank 0's `value`, which can be pickled, in every process; what the others give is not looked at."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        torch.distributed.barrier()


def broadcast_buffers(module: nn.Module) -> None:
    """Give rank 0's buffers, such as the running means of batch norms, to the module in every process."""
    if world_size() > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def on_main(function: Callable[[], T]) -> T:
    """Call `function` in rank 0 while the others wait; return its result, which can be pickled, in every process.

    Raises:
        KdcacheError: what `function` raised, in every process.
    """
    result: T | None = None
    error: KdcacheError | None = None
    if is_main():
        try:
            result = function()
        except KdcacheError as raised:
            error = raised
    result, error = broadcast_object((result, error))
    if error is not None:
        error.is_told_elsewhere = not is_main()
        raise error
    return result  # type: ignore[return-value]


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
        raise KdcacheError(
            "another process of this run has ended, and says why; run the same command again to go on"
        ) from error


def is_of_others(error: RuntimeError) -> bool:
    """Return whether an error is that a message to or from another process did not get through."""
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection", "connection"))


class _AllSum(torch.autograd.Function):
    """A sum over processes whose gradient is a sum over processes (torch.distributed.nn has one, and deprecates it)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)


def _checked_place(values: dict[str, str | None]) -> Place:
    told = ", ".join(f"{name}={value}" for name, value in values.items())
    try:
        found = Place(*(int(value or "") for value in values.values()))
    except ValueError:
        raise UsageError(f"{told} in the environment must be numbers; unset them to run alone") from None
    if not 0 <= found.rank < found.world_size:
        raise UsageError(f"{told} in the environment: the rank must be below the count; unset them to run alone")
    return found


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _join(device_type: str) -> None:
    try:
        if device_type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
            torch.distributed.init_process_group("nccl", timeout=_TIMEOUT, device_id=device)
        else:
            torch.distributed.init_process_group("gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        which = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
        reason = str(error).partition("\n")[0]
        way_out = "start all processes with torchrun, as many on a machine as it has GPUs; to run alone, unset RANK"
        raise KdcacheError(f"{which} cannot join the others: {reason}; {way_out}") from error
