"""What a piece of work asks of its device: operators, kernels, and waits of the host for it, with
the lines that wait."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from device_waits import would_wait
from torch.utils._python_dispatch import TorchDispatchMode

import kdcache

_PACKAGE = Path(kdcache.__file__).parent


class DeviceCounts(NamedTuple):
    """What was counted, in all."""

    operators: int
    """Operators that compute something: views of a tensor launch no kernel."""
    kernels: int | None
    """Launches on a GPU; None without one."""
    waits: "Counter[str]"
    """Waits of the host for the device, by the line that waits. Without a GPU they are operators
    that would wait for one, also on tensors that stay on the host; copies to it are not seen."""

    def __sub__(self, other: "DeviceCounts") -> "DeviceCounts":
        """Return what this has more than `other`."""
        kernels = None
        if self.kernels is not None and other.kernels is not None:
            kernels = self.kernels - other.kernels
        return DeviceCounts(self.operators - other.operators, kernels, self.waits - other.waits)

    def columns(self, times: int) -> dict[str, Any]:
        """Return the counts of one of `times` pieces of work, as columns of a table."""
        columns: dict[str, Any] = {"operators": self.operators / times}
        if self.kernels is not None:
            columns["kernels"] = self.kernels / times
        columns["waits"] = self.waits.total() / times
        places = [f"{place} x{count / times:.3g}" for place, count in self.waits.most_common(6)]
        return {**columns, "where it waits": ", ".join(places) or "nowhere"}


def counted(call: Callable[[], object], device: torch.device) -> DeviceCounts:
    """Return the counts of a call, which is made once, on a GPU three times."""
    watch = _Watch()
    with watch:
        call()
    if device.type != "cuda":
        return DeviceCounts(watch.operators, None, watch.waits)
    return DeviceCounts(watch.operators, _kernels(call), _waits(call))


class _Watch(TorchDispatchMode):
    """Counts operators of this thread, and those for which a host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operators += not function.is_view
        if would_wait(function.overloadpacket, args):
            self.waits[_place()] += 1
        return function(*args, **(kwargs or {}))


def _kernels(call: Callable[[], object]) -> int:
    """Return how often a call launches something on the GPU, from any thread."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    names = Counter(event.name for event in profile.events())
    return sum(count for name, count in names.items() if "aunchKernel" in name)


def _waits(call: Callable[[], object]) -> "Counter[str]":
    """Return the waits of a call for the GPU that torch tells of; events that are waited for are
    not among them."""
    waits: Counter[str] = Counter()

    def count(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            waits[_place()] += 1

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waits


def _place() -> str:
    """Return the line of kdcache that is at work, as `losses/kl.py:51`, or else that of whoever
    called torch."""
    frame = sys._getframe(1)
    outside = ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE):
            return f"{file.relative_to(_PACKAGE)}:{frame.f_lineno}"
        is_own = file == Path(__file__) or "torch" in file.parts
        if not outside and not is_own:
            outside = f"{file.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return outside or "torch"
