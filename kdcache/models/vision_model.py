"""A model that takes views as they are rendered: what it gives, and what it wants of a view."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcache.config.spec import parse_spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.modules import logits_in
from kdcache.models.preprocessing import PREPROCESSING, GivenPreprocessing, Preprocessing
from kdcache.models.segmentation import stacked_maps
from kdcache.models.timm import timm_preprocessing
from kdcache.models.weight_record import ORIGINS, without_options
from kdcache.positions import Boxes, Layout, One, layout_of_sites
from kdcache.shapes import Labels, ViewLogits, Views, sides


class TeacherLogits(NamedTuple):
    """What a cache holds of a teacher's output: class logits, and where they are if each view has
    its own places."""

    values: ViewLogits
    """`[views, *sites, row width]`."""
    boxes: Boxes | None = None
    """Of proposals; None of other layouts."""

    def at(self, views: Any) -> "TeacherLogits":
        """Return those of some views."""
        boxes = self.boxes
        if boxes is not None:
            boxes = Boxes(boxes.places[views], boxes.counts[views])
        return TeacherLogits(self.values[views], boxes)

    def rows_of(self, view: int) -> Tensor:
        """Return the logits of a view, `[*sites, row width]`; of proposals only those that there
        are."""
        if self.boxes is None:
            return self.values[view]
        return self.values[view, : int(self.boxes.counts[view])]


def class_logits(output: Any) -> ViewLogits:
    """Return the class logits, `[views, *sites, classes]`, in what a model of kdcache gives: they
    are all that it gives, but of a detector."""
    logits: ViewLogits = getattr(output, "logits", output)
    return logits


def num_classes(output: Any) -> int:
    """Return how many classes of the data there are in what a model of kdcache gives; the
    background is none."""
    width = class_logits(output).shape[-1]
    layout = getattr(output, "layout", None)
    if isinstance(layout, Layout) and layout.has_background:
        return width - 1
    return width


class VisionModel(nn.Module):
    """A classifier that takes views as they are rendered, and normalises them itself, on its own
    device.

    `architecture` is its spec without what does not decide how its state is used: weights and
    preprocessing. `layout` says what the positions of a view's logits are, which follows from its
    input size.
    """

    layout: Layout = One()
    num_classes: int | None = None
    """Of the data; the background of a detector is none. None of a model that was not tried."""
    label_names: tuple[str, ...] | None = None
    """What a library calls the classes of its weights, if it says so."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, spec: str) -> None:
        super().__init__()
        self.module = module
        self.preprocessing = preprocessing
        self.spec = spec
        self.architecture = _architecture(spec)
        self.register_buffer("mean", _in_pixels(preprocessing.mean), persistent=False)
        self.register_buffer("std", _in_pixels(preprocessing.std), persistent=False)

    def forward(self, views: Views) -> ViewLogits:
        """Return class logits, `[views, *sites, classes]`.

        Raises:
            ModelError: the module gives something else.
        """
        output = self.module(self._normalised(views))
        return self._logits(logits_in(output), len(views))

    @property
    def student_rate(self) -> float | None:
        """The learning rate to begin with for a student of this kind; None if it is the usual
        one."""
        return None

    @property
    def sites(self) -> tuple[int, ...]:
        """The shape of a view's logits but for the classes."""
        return self.layout.sites

    @property
    def stride(self) -> int | None:
        """Pixels of a view to one of its map, along each side; None without maps."""
        return None

    def layout_of(self, output: Any) -> Layout:
        """Return what the positions of the class logits are in what `forward` gives."""
        return layout_of_sites(class_logits(output).shape[1:-1])

    def teacher_logits(self, output: Any, labels: Labels) -> TeacherLogits:
        """Return what a cache holds of what `forward` gives.

        Args:
            output: of a batch of views.
            labels: of the views, on the host or where the model is.
        """
        return TeacherLogits(class_logits(output))

    def _normalised(self, views: Views) -> Tensor:
        return torch.sub(views, self.mean).div_(self.std)

    def _logits(self, output: Any, num_views: int) -> ViewLogits:
        if not isinstance(output, Tensor):
            way_out = "let it return these alone; aux_logits=false leaves torchvision's others out"
            raise ModelError(f"model {self.spec} gives {kind_text(output)}, not logits; {way_out}")
        if output.ndim != 2 or len(output) != num_views or not output.is_floating_point():
            need = f"wanted for {num_views} views are raw logits, floats [views, classes]"
            raise ModelError(f"model {self.spec} gives {kind_text(output)}; {need}")
        return output


class MapModel(VisionModel):
    """A model of segmentation, the main head first."""

    def _logits(self, output: Any, num_views: int) -> ViewLogits:
        maps = stacked_maps(output, self.spec)
        if len(maps) != num_views or not maps.is_floating_point():
            need = f"wanted for {num_views} views are raw logits, [views, classes, height, width]"
            raise ModelError(f"model {self.spec} gives maps of {kind_text(maps[:, 0])}; {need}")
        return maps

    @property
    def stride(self) -> int:
        """Pixels of a view to one of its maps, along each side."""
        height, _ = sides(self.preprocessing.size)
        return height // self.sites[1]


def preprocessing_of(model: nn.Module) -> GivenPreprocessing:
    """Return what a model says of the views that it wants: kdcache's own their size, since they
    normalise views themselves, and timm's their mean and std, and the size if they take no
    other."""
    if isinstance(model, VisionModel):
        return GivenPreprocessing(size=model.preprocessing.size)
    return timm_preprocessing(model)


def completed(given: GivenPreprocessing, model: nn.Module | None) -> GivenPreprocessing:
    """Return what a program says of a model's preprocessing, and where it says nothing the model's
    own.

    Raises:
        UsageError: one of mean and std without the other.
    """
    if (given.mean is None) != (given.std is None):
        raise UsageError("mean and std belong together; give both, or neither")
    if model is None:
        return given
    own = preprocessing_of(model)
    if given.size is None:
        given = replace(given, size=own.size)
    if given.mean is None:
        given = replace(given, mean=own.mean, std=own.std)
    return given


def head_weight(model: VisionModel, classes: int) -> Tensor | None:
    """Return the weights of the last linear layer, float32 `[classes, features]`, or None if it
    does not give the classes."""
    head = _last_linear(model)
    if head is None:
        return None
    weight = head.weight
    if weight.shape[0] != classes or weight[0, 0].numel() != 1:
        return None
    return weight.detach().flatten(1).float().cpu()


def last_linear_names(model: nn.Module) -> list[str]:
    """Return the names of the tensors of the last linear layer, which gives the classes."""
    names: list[str] = []
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            names = [f"{prefix}.{name}".lstrip(".") for name in module.state_dict()]
    return names


def kind_text(value: Any) -> str:
    """Return what something is, for messages: its type and shape, or what it holds."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} {tuple(value.shape)}"
    name = type(value).__name__
    if isinstance(value, tuple | list) and value:
        first = kind_text(value[0])[:60]
        return f"a {name} of {len(value)}, first {first}"
    if isinstance(value, Mapping) and value:
        keys = ", ".join(map(str, value))
        return f"a {name} of {keys}"[:120]
    return f"a {name}"


def _in_pixels(values: tuple[float, ...]) -> Tensor:
    """Return a mean or a std for pixels from 0 to 255, `[1, channels, 1, 1]`."""
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(1, -1, 1, 1) * 255


def _architecture(text: str) -> str:
    return str(without_options(parse_spec(text), ORIGINS.union(PREPROCESSING)))


def _last_linear(model: nn.Module) -> nn.Linear | nn.Conv2d | None:
    last = None
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            last = module
    return last
