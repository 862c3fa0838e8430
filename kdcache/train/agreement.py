"""What the processes of a run must agree on before its first step: settings and weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kdcache.config.differences import flat_settings
from kdcache.runtime.agreement import disagreement, require_same
from kdcache.runtime.distributed import gather, host_name, world_size

_OWN = ("compute.device", "compute.workers", "compute.keep_memory", "slab_dir", "slab_limit")
"""Settings that each machine may have its own of: they change no result."""
_TOLERANCE = 1e-4


def require_same_settings(config: Any) -> None:
    """Check that all processes were told the same, but for where and by how many workers they read.

    Raises:
        MismatchError: they were not; the first setting that differs is named.
    """
    if world_size() == 1:
        return
    settings = flat_settings(dataclasses.asdict(config))
    shared = {}
    for name, value in settings.items():
        if name not in _OWN:
            shared[name] = repr(value)
    require_same(shared, "the settings of the run")


def require_same_weights(module: nn.Module) -> None:
    """Check that the student starts from the same weights in all processes, but for the last bits.

    Processors of two kinds draw the same weights but for these; all processes then go on with those
    of rank 0.

    Raises:
        MismatchError: it does not, in every process.
    """
    if world_size() == 1:
        return
    reports = gather((host_name(), _summary(module)), "the student's weights")
    _, first_summary = reports[0]
    for number, (host, other_summary) in enumerate(reports):
        for name, numbers in first_summary.items():
            if not _are_near(numbers, other_summary.get(name, ())):
                reason = f"another student to begin with ({name} differs from that of rank 0)"
                raise disagreement(reason, number, host)


def _summary(module: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return a few numbers of each tensor, which change with any of its values."""
    summary: dict[str, tuple[float, ...]] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        values = tensor.detach().flatten().cpu().double()
        waves = torch.arange(len(values), dtype=torch.float64).cos()
        summary[name] = (float(values.norm()), float(values @ waves), float(len(values)))
    return summary


def _are_near(numbers: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether two summaries of a tensor differ by no more than the last bits."""
    if len(numbers) != len(others):
        return False
    scale = max(abs(numbers[0]), abs(others[0]))
    for number, other in zip(numbers, others, strict=True):
        if not abs(number - other) <= _TOLERANCE * scale:
            return False
    return True
