"""Arithmetic in the types that tensors have, also in a program that runs in an autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kdcache.deferred import torch


def without_autocast(device: "torch.device") -> AbstractContextManager[Any]:
    """Return the context in which no autocast of the program holds on a device.

    In one, matrices of float32 are multiplied in half precision, and on CUDA
    `binary_cross_entropy` is refused.
    """
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
