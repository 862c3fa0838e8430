"""Maps of segmentation models: raw class logits, at the stride of the model's own head, before any
upsampling.

A module gives one map `[views, classes, height, width]`, or several (tuple, list or dict): the main
head's first, then those of auxiliary heads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.shapes import ViewLogits


def stacked_maps(found: Any, spec: str) -> ViewLogits:
    """Return what a module gives as `[views, heads, height, width, classes]`.

    Raises:
        ModelError: it gives no maps, or maps of several sizes.
    """
    maps = _as_list(found)
    if not maps or not all(isinstance(one, Tensor) and one.ndim == 4 for one in maps):
        kinds = ", ".join(map(_kind, maps)) or "nothing"
        raise ModelError(
            f"model {spec} gives {kinds}; a model of segmentation gives maps [views, classes,"
            " height, width]"
        )
    if len({one.shape for one in maps}) > 1:
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in maps)
        way_out = (
            "those of all its heads must be of one shape: leave heads out (of torchvision's with"
            " aux_loss=false)"
        )
        raise ModelError(f"model {spec} gives maps of {shapes}; {way_out}")
    return torch.stack([one.permute(0, 2, 3, 1) for one in maps], dim=1)


def _as_list(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return list(found.values())
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _kind(one: Any) -> str:
    """Return what a message calls an output of a module."""
    return str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__
