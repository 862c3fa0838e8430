"""What the processes of a run must agree on before its first step.

They may read other files, or have been started otherwise.

Gradients of processes that disagree are averaged all the same, and nothing would tell.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdcache.config.files import flat_settings
from kdcache.errors import MismatchError
from kdcache.runtime.distributed import gather, host_name, is_main, world_size

_OWN = ("compute.device", "compute.workers", "slab_dir", "slab_limit")
"""Settings that each machine may have its own of: they change no result."""
_TOLERANCE = 1e-4
_LONGEST_VALUE = 80
_WAY_OUT = "start all processes with the same command, on the same data and versions"


def require_same_settings(config: Any) -> None:
    """Check that all processes were told the same, but for where and by how many workers they read.

    Raises:
        MismatchError: they were not; the first setting that differs is named.
    """
    if world_size() == 1:
        return
    settings = flat_settings(dataclasses.asdict(config))
    require_same(
        {name: repr(value) for name, value in settings.items() if name not in _OWN},
        "the settings of the run",
    )


def require_same(facts: Mapping[str, str], what: str) -> None:
    """Check that each of `facts` is the same in all processes.

    Raises:
        MismatchError: one is not, in every process; the message names it, the rank and the machine.
    """
    if world_size() == 1:
        return
    told = gather((host_name(), dict(facts)), what)
    first_host, first = told[0]
    for number, (host, other) in enumerate(told):
        for name in dict.fromkeys([*first, *other]):
            if first.get(name) != other.get(name):
                there, here = _differing_parts(str(other.get(name)), str(first.get(name)))
                reason = f"another {name}: {there} there, {here} in rank 0 on {first_host}"
                raise _told(reason, number, host)


def require_same_weights(module: nn.Module) -> None:
    """Check that the student starts from the same weights in all processes, but for the last bits.

    Processors of two kinds draw the same weights but for these; all processes then go on with those
    of rank 0.

    Raises:
        MismatchError: it does not, in every process.
    """
    if world_size() == 1:
        return
    told = gather((host_name(), _summary(module)), "the student's weights")
    _, first = told[0]
    for number, (host, other) in enumerate(told):
        for name, numbers in first.items():
            if not _are_near(numbers, other.get(name, ())):
                raise _told(
                    f"another student to begin with ({name} differs from that of rank 0)",
                    number,
                    host,
                )


def _told(reason: str, number: int, host: str) -> MismatchError:
    error = MismatchError(f"rank {number} on {host} has {reason}; {_WAY_OUT}")
    error.is_told_elsewhere = not is_main()
    return error


def _differing_parts(one: str, other: str) -> tuple[str, str]:
    """Return two texts, of long ones what stands about the first difference."""
    if max(len(one), len(other)) <= _LONGEST_VALUE:
        return one, other
    pairs = zip(one, other, strict=False)
    first = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(first - _LONGEST_VALUE // 4, 0)
    one, other = (f"...{text[start : start + _LONGEST_VALUE]}..." for text in (one, other))
    return one, other


def _summary(module: nn.Module) -> dict[str, tuple[float, ...]]:
    """Return a few numbers of each tensor, which change with any of its values."""
    found: dict[str, tuple[float, ...]] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        values = tensor.detach().double().flatten().cpu()
        waves = torch.arange(len(values), dtype=torch.float64).cos()
        found[name] = (float(values.norm()), float(values @ waves), float(len(values)))
    return found


def _are_near(one: Sequence[float], other: Sequence[float]) -> bool:
    if len(one) != len(other):
        return False
    scale = max(map(abs, (one[0], other[0])))
    is_near = [abs(a - b) <= _TOLERANCE * scale for a, b in zip(one, other, strict=True)]
    return all(is_near)
