"""Operations for whose result a host waits for its GPU, found without one: tensors have a device and
no content."""

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda")
_aten = torch.ops.aten
_RULE = Path(__file__).parents[1] / "benchmarks/device_waits.py"
would_wait = runpy.run_path(str(_RULE))["would_wait"]


class WaitError(Exception):
    """An operation for which the host would wait."""


class HalfError(Exception):
    """An operation in half precision."""


class _NoWaits(TorchDispatchMode):
    """Raises a WaitError at each operation for which the host would wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        if would_wait(operation, args):
            raise WaitError(str(func))
        if operation is _aten._to_copy:
            target = torch.device(kwargs.get("device") or args[0].device)
            if target.type != args[0].device.type and not kwargs.get("non_blocking"):
                raise WaitError(f"{func} from {args[0].device} to {target}")
        if operation is _aten.copy_ and args[0].device.type != args[1].device.type:
            raise WaitError(f"{func} from {args[1].device} to {args[0].device}")
        return func(*args, **kwargs)


@contextmanager
def on_gpu() -> Iterator[None]:
    """Let tensors in the block have a GPU, and no content; operands on two devices raise."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


class _NoHalves(TorchDispatchMode):
    """Raises a HalfError at each operation that gives floats of half precision."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float16:
            raise HalfError(str(func))
        return result


@contextmanager
def in_autocast() -> Iterator[None]:
    """Run the block as a program does whose GPU is in an autocast to float16; raise a HalfError
    where something is computed in that."""
    torch.set_autocast_dtype("cuda", torch.float16)
    torch.set_autocast_enabled("cuda", True)  # torch.autocast would look for a GPU
    try:
        with _NoHalves():
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@contextmanager
def without_waits() -> Iterator[None]:
    """Raise a WaitError in the block where the host would wait for its GPU."""
    with _NoWaits():
        yield
