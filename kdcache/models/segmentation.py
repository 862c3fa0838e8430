"""Maps of segmentation models: raw class logits, at the stride of the model's own head, before any
upsampling.

A module gives one map `[views, classes, height, width]`, or several (tuple, list or dict): the main
head's first, then those of auxiliary heads.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.shapes import ViewLogits


def stacked_maps(output: Any, spec: str) -> ViewLogits:
    """Return what a module gives as `[views, heads, height, width, classes]`.

    Raises:
        ModelError: it gives no maps, or maps of several sizes.
    """
    maps = _as_list(output)
    if not maps or not _are_maps(maps):
        kinds = ", ".join(map(_kind, maps)) or "nothing"
        raise ModelError(
            f"model {spec} gives {kinds}; a model of segmentation gives maps [views, classes,"
            " height, width]"
        )
    if not _have_one_shape(maps):
        shapes = ", ".join([str(tuple(part.shape[1:])) for part in maps])
        way_out = (
            "those of all its heads must be of one shape: leave heads out (of torchvision's with"
            " aux_loss=false)"
        )
        raise ModelError(f"model {spec} gives maps of {shapes}; {way_out}")
    return torch.stack([part.permute(0, 2, 3, 1) for part in maps], dim=1)


def main_map(output: Any) -> Tensor:
    """Return the main head's map in what a module gives, `[views, classes, height, width]`."""
    main: Tensor = _as_list(output)[0]
    return main


def _as_list(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, (tuple, list)):
        return list(output)
    return [output]


def _are_maps(parts: Iterable[Any]) -> bool:
    return all(isinstance(part, Tensor) and part.ndim == 4 for part in parts)


def _have_one_shape(maps: Sequence[Tensor]) -> bool:
    return all(part.shape == maps[0].shape for part in maps)


def _kind(part: Any) -> str:
    """Return what a message calls a part of a module's output."""
    if isinstance(part, Tensor):
        return str(tuple(part.shape))
    return type(part).__name__
