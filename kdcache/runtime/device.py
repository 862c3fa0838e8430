"""Where and how models run: device, precision, memory format, compilation, loader workers."""

import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from kdcache.deferred import Module, Tensor, torch
from kdcache.errors import UsageError
from kdcache.runtime.allocator import keep_freed_memory
from kdcache.runtime.host_copy import HostCopy
from kdcache.runtime.launch import own_place

Function = TypeVar("Function", bound=Callable[..., Any])
_DEVICE = re.compile(r"auto|cpu(:0)?|cuda(:[0-9]+)?|mps(:0)?")
_MOST_WORKERS = 1024
_MOST_OWN_WORKERS = 8  # where the user gives no number
_BATCHES_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Settings shared by dumping and training; but for `precision` they change results by no more
    than rounding."""

    device: str = "auto"
    """`auto` (CUDA if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`, of which each of
    several processes takes the GPU of its own number; or `mps`, Apple's GPU, on which nothing was
    tried."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The autocast type of the models; losses and statistics are in float32 always. On CUDA,
    convolutions in float32 use TF32 where torch's own settings let them."""
    channels_last: bool = False
    """Whether models and images lie in memory with their channels last."""
    compile: bool = False
    """Whether models go through torch.compile, and with a classifier that learns its loss."""
    workers: int = field(default_factory=lambda: min(_num_cores(), _MOST_OWN_WORKERS))
    """Loader processes; 0 renders views in the main process."""
    keep_memory: bool = True
    """Whether a process that runs models on a CPU keeps what memory it frees, see
    `keep_freed_memory`: steps are faster, and the peak is somewhat higher."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise UsageError(
                f"device {self.device!r} is none that kdcache runs on; use auto, cpu, cuda,"
                " cuda:N or mps"
            )
        if not 0 <= self.workers <= _MOST_WORKERS:
            raise UsageError(
                f"compute.workers is {self.workers}; it must be from 0 to {_MOST_WORKERS}"
            )


def device_type(name: str) -> str:
    """Return `cuda`, `cpu` or `mps`, whichever a device of this name is of."""
    return _device(name).type


def named_device(name: str) -> str:
    """Return the device of this name as the user says it, and in the place of `auto` its type.

    Raises:
        UsageError: it is not there.
    """
    kind = device_type(name)
    if name == "auto":
        return kind
    return name


class Compute:
    """A device together with the way tensors and models get there."""

    def __init__(self, config: ComputeConfig) -> None:
        self.config = config
        self.device = _device(config.device)
        if self.device.type == "cuda" and self.device.index is not None:
            # events, generators and pinned memory are those of the current device
            torch.cuda.set_device(self.device)
        if self.device.type == "cpu" and config.keep_memory:
            keep_freed_memory()
        self._format = torch.contiguous_format
        if config.channels_last:
            self._format = torch.channels_last
        self._require_precision()

    @property
    def _autocast_type(self) -> "torch.dtype | None":
        """The type that models run in; None for float32, which needs no cast."""
        types = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return types.get(self.config.precision)

    def _require_precision(self) -> None:
        """Raise a UsageError if the device does not compute in the precision."""
        dtype = self._autocast_type
        if dtype is None:
            return
        message = f"precision {self.config.precision} is not for device {self.device}; use float32"
        try:
            with self.autocast():
                matrix = torch.ones(1, 1, device=self.device)
                product = matrix @ matrix
        except RuntimeError as error:
            raise UsageError(message) from error
        if product.dtype != dtype:
            raise UsageError(message)

    @property
    def pin_memory(self) -> bool:
        """Whether batches should come in pinned memory, from which copies to the device do not
        block."""
        return self.device.type == "cuda"

    @property
    def batches_ahead(self) -> int:
        """How many batches the device may be given while the host works on an earlier one; none on
        a CPU, which does the one as well as the other and has the earlier one in its caches."""
        if self.device.type != "cuda":
            return 0
        return _BATCHES_AHEAD

    def place(self, model: Module) -> Module:
        """Return the model on the device, in the memory format, compiled if so configured."""
        model = model.to(self.device, memory_format=self._format)  # type: ignore[call-overload]
        return self.compiled(model)

    def compiled(self, function: Function) -> Function:
        """Return a model or function, compiled if so configured."""
        if not self.config.compile:
            return function
        return torch.compile(function)  # type: ignore[return-value]

    def move(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device, on CUDA without waiting for the copy; images come in
        the memory format."""
        is_pinned = self.pin_memory
        if tensor.ndim == 4:
            return tensor.to(self.device, non_blocking=is_pinned, memory_format=self._format)
        return tensor.to(self.device, non_blocking=is_pinned)

    def seed(self, seed: int) -> None:
        """Seed the device's own generator, from which dropout draws there."""
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def fetch(self, tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Begin to copy tensors to the host; return what waits for them, but not for work queued
        later, and gives them."""
        if self.device.type == "cuda":
            return HostCopy(tensors, self.device).wait
        copies = [tensor.to("cpu") for tensor in tensors]  # the tensors themselves, on a CPU
        return lambda: copies

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that models run in."""
        dtype = self._autocast_type
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> "torch.amp.GradScaler":
        """Return the gradient scaler, which does nothing but for float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "float16")

    def peak_memory(self) -> dict[str, int]:
        """Return the peak memory of this process in bytes: `host` (resident), and `device` on
        CUDA."""
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform != "darwin":  # which alone counts bytes, not kibibytes
            resident *= 1024
        peak = {"host": resident}
        if self.device.type == "cuda":
            peak["device"] = torch.cuda.max_memory_allocated(self.device)
        return peak


def _num_cores() -> int:
    """Return how many cores this process may use, which Slurm and containers can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device(name: str) -> "torch.device":
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
    if name == "cuda" and own_place().world_size > 1:
        # Slurm may show each process its own GPU only: then all are number 0
        number = own_place().local_rank % max(torch.cuda.device_count(), 1)
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
    except RuntimeError as error:  # a number past all that there can be
        raise UsageError(f"device {name!r} is not there; use cpu or auto") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            f"device {name!r} is not there: torch sees no GPU of Apple's; use cpu or auto"
        )
    if device.type == "mps" and own_place().world_size > 1:
        raise UsageError(
            f"device {name!r} is for one process, and there are {own_place().world_size}; start one"
            " alone, or use cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices;"
            " use cpu or auto"
        )
    return device
