"""A model tried out before it is used: on one empty view, and whether its state can be saved."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models.vision_model import (
    MapModel,
    VisionModel,
    class_logits,
    kind_text,
    num_classes,
)
from kdcache.positions import Layout
from kdcache.runtime.user_code import user_code
from kdcache.shapes import sides, size_text


class Trial(NamedTuple):
    """What a model's logits of a view are."""

    layout: Layout
    num_classes: int
    """Of the data; the background is none."""


def tried(
    model: VisionModel,
    classes: int | None,
    channels: int,
    *,
    advice: str | None,
) -> Trial:
    """Run one empty view, and return what its logits are.

    Args:
        model: that is tried.
        classes: that it is to have, if that is known.
        channels: of a view.
        advice: what to do with a teacher of other classes, see `TEACHER_ADVICE`; None of a student.

    Raises:
        ModelError: it fails, or gives something else than logits of so many classes.
    """
    output = _output_of_empty_view(model, channels)
    given = num_classes(output)
    if classes is not None and given != classes:
        if advice is not None:
            way_out = advice.format(given=given)
        else:
            way_out = "give it as many in its spec"
        misfit = f"gives {given} classes, and {classes} are asked for"
        raise ModelError(f"model {model.spec} {misfit}: {way_out}")
    if isinstance(model, MapModel):
        logits = class_logits(output)
        map_size = (logits.shape[2], logits.shape[3])
        _require_stride(sides(model.preprocessing.size), map_size, model.spec)
    return Trial(model.layout_of(output), given)


def require_plain_state(module: nn.Module, text: str) -> None:
    """Raise a ModelError if a model's state could be neither hashed nor saved."""
    with user_code(f"the state_dict of model {text}", ModelError):
        state = module.state_dict()
    for name, value in state.items():
        if not _is_plain(value):
            way_out = "wanted are plain tensors; leave it out of the state, or make it a buffer"
            kind = kind_text(value)
            raise ModelError(f"model {text} has {kind} as {name} in its state; {way_out}")
    samples = _empty_tensors(state)
    with user_code(f"saving of model {text}", ModelError, way_out="take another type of float"):
        safetensors_bytes(samples)


@torch.no_grad()
def _output_of_empty_view(model: VisionModel, channels: int) -> Any:
    is_training = model.training
    size = sides(model.preprocessing.size)
    what = f"model {model.spec} on a view of {channels}x{size_text(size)}"
    way_out = "check the recipe's mode and size, or set input_size=N in the model's spec"
    with user_code(what, ModelError, way_out=way_out):
        view = torch.zeros(1, channels, *size, dtype=torch.uint8, device=model.mean.device)
        output = model.eval()(view)
    model.train(is_training)
    return output


def _require_stride(view_size: tuple[int, int], map_size: tuple[int, int], spec: str) -> None:
    view_height, view_width = view_size
    map_height, map_width = map_size
    is_whole = view_height % map_height == 0 and view_width % map_width == 0
    if not is_whole or view_height // map_height != view_width // map_width:
        raise ModelError(
            f"model {spec} gives a map of {size_text(map_size)} for views of"
            f" {size_text(view_size)}, which is no whole stride; use a recipe whose height and"
            " width are multiples of it (8, 16 or 32 for most models)"
        )


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not value.is_quantized


def _empty_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an empty tensor of each type in a state, by the type."""
    tensors = {}
    for value in state.values():
        tensors[str(value.dtype)] = torch.empty(0, dtype=value.dtype, device="cpu")
    return tensors
