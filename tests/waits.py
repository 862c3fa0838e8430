"""Operations for whose result a host waits for its GPU, found without one: tensors have a device and
no content."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda")
_aten = torch.ops.aten
_WAITS = {
    _aten._local_scalar_dense,
    _aten.bincount,
    _aten.equal,
    _aten.is_nonzero,
    _aten.masked_select,
    _aten.nonzero,
    _aten.repeat_interleave,
    _aten._unique2,
}
"""They copy a number to the host, or have a result whose size the values decide."""
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


class WaitError(Exception):
    """An operation for which the host would wait."""


class _NoWaits(TorchDispatchMode):
    """Raises a WaitError at each operation for which the host would wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket
        if operation in _WAITS:
            raise WaitError(str(func))
        if operation in _INDEXING and any(_is_mask(index) for index in args[1]):
            raise WaitError(f"{func} by a mask")
        if operation is _aten._to_copy:
            target = torch.device(kwargs.get("device") or args[0].device)
            if target.type != args[0].device.type and not kwargs.get("non_blocking"):
                raise WaitError(f"{func} from {args[0].device} to {target}")
        if operation is _aten.copy_ and args[0].device.type != args[1].device.type:
            raise WaitError(f"{func} from {args[1].device} to {args[0].device}")
        return func(*args, **kwargs)


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def on_gpu() -> Iterator[None]:
    """Let tensors in the block have a GPU, and no content; operands on two devices raise."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def without_waits() -> Iterator[None]:
    """Raise a WaitError in the block where the host would wait for its GPU."""
    with _NoWaits():
        yield
