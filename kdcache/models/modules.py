"""Any module: what messages call it, where it is, what of its output is logits, the modes of its
parts, the hash of its state."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def class_name(module: nn.Module) -> str:
    """Return what messages and manifests call a module of the user's own."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def device_of(module: nn.Module | None) -> str:
    """Return where a module is, for the settings of a computation; `auto` of none."""
    if module is None:
        return "auto"
    parameter = next(module.parameters(), None)
    if parameter is None:
        return "cpu"
    return str(parameter.device)


def logits_in(output: Any) -> Any:
    """Return what a module's output calls its logits, as outputs of transformers do; all of an
    output that names none."""
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    return output


@contextmanager
def kept_modes(module: nn.Module) -> Iterator[None]:
    """Give all parts of a module back in the modes, training or not, that they were in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, is_training in modes:
            part.training = is_training


def state_sha256(module: nn.Module) -> str:
    """Return the hash of a model's state: names, types, shapes and bytes of its parameters and
    buffers."""
    state_hash = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
        state_hash.update(header.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        state_hash.update(values.view(torch.uint8).numpy().data)
    return state_hash.hexdigest()
