"""Copies from a device to the host, beside what the device computes."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from kdcache.deferred import Tensor, torch

_ALIGNED = 8
"""Bytes of which each tensor begins at a multiple, so that it can be seen as its own type."""


class HostCopy:
    """Tensors on their way to the host, in a single copy on a stream of its own.

    The copy waits for what the device had to do when it was begun, and nothing that comes later
    waits for the copy.
    """

    def __init__(self, tensors: Sequence[Tensor], device: "torch.device") -> None:
        """Begin the copy of tensors that are on `device`."""
        self._kinds = [(tensor.shape, tensor.dtype) for tensor in tensors]
        backend = torch.get_device_module(device)
        # held until it is copied: its memory would be used again else
        self._bytes = joined_bytes(tensors)
        stream = _side_stream(device)
        stream.wait_stream(backend.current_stream())
        with backend.stream(stream):
            self._copy = self._bytes.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = backend.Event()
            self._arrived.record(stream)

    def wait(self) -> list[Tensor]:
        """Wait for the copy, but not for work queued later, and return the tensors on the host."""
        self._arrived.synchronize()
        tensors = []
        start = 0
        for shape, dtype in self._kinds:
            stop = start + shape.numel() * dtype.itemsize
            tensors.append(self._copy[start:stop].view(dtype).view(shape))
            start = stop + -stop % _ALIGNED
        return tensors


def joined_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bytes of tensors one after the other, each at a multiple of 8, uint8 `[bytes]`."""
    parts = []
    for tensor in tensors:
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        parts += [raw, raw.new_empty(-len(raw) % _ALIGNED)]
    return torch.cat(parts)


@cache
def _side_stream(device: "torch.device") -> Any:
    """Return the stream on which copies from `device` run, which is the current one."""
    return torch.get_device_module(device).Stream()
