"""Teachers and students from a spec, with the preprocessing that each of them needs.

    timm:resnet50,pretrained=true            torchvision:resnet50,weights=DEFAULT
    timm:resnet18,weights=runs/a/student.safetensors
    transformers:google/vit-base-patch16-224
    mypkg.models:build,width=2,mean=0.5,std=0.25,input_size=160

Keys that kdcache takes itself: `weights=FILE` (safetensors, or a torch file read with
weights_only), `weights_key` (the part of that file, where it has several), `mean`, `std` (one
number for all channels) and `input_size` (`224`, or height and width, `512x1024`). All others go to
the model's constructor, of transformers to the model's configuration. Each family of models has a
file of its own here, and an entry in registry.py.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from kdcache.config.spec import Spec, names_parameter, parse_spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.building import Builder
from kdcache.models.own import build_own, check_own
from kdcache.models.preprocessing import PREPROCESSING, Preprocessing, chosen_preprocessing
from kdcache.models.registry import FAMILIES
from kdcache.models.segmentation import stacked_maps
from kdcache.models.timm import timm_preprocessing
from kdcache.models.weight_formats import check_weight_file
from kdcache.models.weight_record import ORIGINS
from kdcache.models.weights import classes_advice, load_weights
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Size, ViewLogits, Views, sides, size_text
from kdcache.targets import gives_maps
from kdcache.views import Recipe

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


class VisionModel(nn.Module):
    """A classifier that takes views as they are rendered, and normalises them itself, on its own
    device.

    `architecture` is its spec without what does not decide how its state is used: weights and
    preprocessing. `sites` is the shape of a view's logits but for the classes, which follows from
    its input size: empty.
    """

    sites: tuple[int, ...] = ()

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, spec: str) -> None:
        super().__init__()
        self.module = module
        self.preprocessing = preprocessing
        self.spec = spec
        self.architecture = _architecture(spec)
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(
                name, torch.tensor(values).view(1, -1, 1, 1) * 255, persistent=False
            )

    def forward(self, views: Views) -> ViewLogits:
        """Return class logits, `[views, *sites, classes]`.

        Raises:
            ModelError: the module gives something else.
        """
        return self._logits(self.module(torch.sub(views, self.mean).div_(self.std)), len(views))

    def _logits(self, found: Any, views: int) -> ViewLogits:
        if not isinstance(found, Tensor):
            way_out = "let it return these alone; aux_logits=false leaves torchvision's others out"
            raise ModelError(f"model {self.spec} gives {_kind(found)}, not logits; {way_out}")
        if found.ndim != 2 or len(found) != views or not found.is_floating_point():
            wanted = f"wanted for {views} views are raw logits, floats [views, classes]"
            raise ModelError(f"model {self.spec} gives {_kind(found)}; {wanted}")
        return found


class MapModel(VisionModel):
    """A model of segmentation: `sites` are (heads, height, width), the heads main first."""

    def _logits(self, found: Any, views: int) -> ViewLogits:
        maps = stacked_maps(found, self.spec)
        if len(maps) != views or not maps.is_floating_point():
            wanted = f"wanted for {views} views are raw logits, [views, classes, height, width]"
            raise ModelError(f"model {self.spec} gives maps of {_kind(maps[:, 0])}; {wanted}")
        return maps

    @property
    def stride(self) -> int:
        """Pixels of a view to one of its maps, along each side."""
        return sides(self.preprocessing.size)[0] // self.sites[1]


def wrapped(
    module: nn.Module,
    recipe: Recipe,
    *,
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    task: str = "classification",
) -> VisionModel:
    """Return a model that normalises views itself, from a module of the user's own.

    Args:
        module: takes normalised images, and returns logits.
        recipe: gives the channels, and the input size of modules that do not say theirs.
        size: input size; by default the module's, as timm's say it, or the recipe's.
        mean: of pixels scaled to 0 to 1, one number or one a channel; by default the module's.
        std: as `mean`.
        task: `classification` or `segmentation`.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views.
    """
    if isinstance(module, VisionModel):
        if any(wish is not None for wish in (size, mean, std)):
            raise UsageError(
                "size, mean and std are of a plain module; a model of kdcache has its own: give"
                " its `module`, or leave them out"
            )
        return module
    name = class_name(module)
    if (mean is None) != (std is None):
        raise UsageError("mean and std belong together; give both, or neither")
    own = preprocessing_of(module)
    wishes: dict[str, Any] = {"input_size": size}
    if mean is not None:
        wishes |= {"mean": mean, "std": std}
    elif own is not None:
        wishes |= {"mean": own.mean, "std": own.std}
    else:
        raise UsageError(
            f"model {name} does not say how images are to be normalised; give mean and std"
        )
    if size is None and own is not None:
        wishes["input_size"] = own.size
    kind = MapModel if gives_maps(task) else VisionModel
    return kind(module, chosen_preprocessing(wishes, recipe, name), name)


def tried_model(
    module: nn.Module,
    recipe: Recipe,
    *,
    classes: int,
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    task: str = "classification",
) -> VisionModel:
    """Return a model as `wrapped` does, after trying it out on one view, where the module is.

    Raises:
        UsageError: the module does not say how images are to be normalised, and neither does the
            call.
        ModelError: it does not take the views, gives something else than logits of so many classes,
            or has a state that cannot be saved.
    """
    model = wrapped(module, recipe, size=size, mean=mean, std=std, task=task)
    model.to(device_of(module))
    model.sites = _try_out(model, classes, recipe.channels, is_teacher=True)
    _require_plain_state(model.module, model.spec)
    return model


def class_name(module: nn.Module) -> str:
    """Return what messages and manifests call a module of the user's own."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def device_of(module: nn.Module | None) -> str:
    """Return where a module is, for the settings of a computation; `auto` of none."""
    if module is None:
        return "auto"
    return str(next((part.device for part in module.parameters()), "cpu"))


@contextmanager
def kept_modes(module: nn.Module) -> Iterator[None]:
    """Give all parts of a module back in the modes, training or not, that they were in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, is_training in modes:
            part.training = is_training


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """Return what a model wants of a view, where it says so: kdcache's own, which normalise views
    themselves, and timm's.

    Returns:
        Of kdcache's own models the size alone, with no mean and std; None of others.
    """
    if isinstance(model, VisionModel):
        return Preprocessing(model.preprocessing.size, (), ())
    return timm_preprocessing(model)


def head_weight(model: VisionModel, classes: int) -> Tensor | None:
    """Return the weights of the last linear layer, float32 `[classes, features]`, or None if it
    does not give the classes."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not linear or linear[-1].weight.shape[0] != classes or linear[-1].weight[0, 0].numel() != 1:
        return None
    return linear[-1].weight.detach().flatten(1).float().cpu()


def open_model(
    text: str, *, classes: int, recipe: Recipe, trained: bool = False, task: str = "classification"
) -> VisionModel:
    """Return the model that a spec names, for views of `recipe`.

    Args:
        text: the spec.
        classes: number of classes of the source.
        recipe: gives the channels, and the input size of models that take any.
        trained: whether weights are required, as for a teacher; its head is then never replaced.
        task: `classification` or `segmentation`, the source's.

    Raises:
        UsageError: an unknown model or option; the nearest is suggested.
        ModelError: weights that are absent, unreadable or of another shape, or another number of
            classes or channels.
    """
    spec = parse_spec(text)
    options = dict(spec.options)
    if "num_classes" in options:
        raise UsageError(
            f"model {text!r}: the number of classes comes from the data ({classes}); leave"
            " num_classes out"
        )
    _require_options(spec)
    own: dict[str, Any] = {key: options.pop(key) for key in PREPROCESSING if key in options}
    weights, key = _take_weights(spec, options)
    family = FAMILIES.get(spec.name)
    if trained and family is not None:
        is_pretrained = options.get("pretrained", family.is_pretrained)
        if weights is None and not is_pretrained and not options.get("weights"):
            raise ModelError(
                f"teacher {text!r} has no weights; add weights=FILE or pretrained=true"
            )
    if weights is not None and family is not None and family.is_pretrained:
        options["pretrained"] = False  # the file has all weights: no others need be there
    # a head of another size would be drawn at random: a pretrained teacher keeps its own, and the
    # class count is checked
    head = None if trained and weights is None else classes
    bare = Spec(spec.name, spec.arg, options)
    is_map = gives_maps(task)
    build: Builder
    if family is None:
        build = build_own
    else:
        build = family.segmenter if is_map else family.classifier
    module, wishes = build(bare, head, recipe.channels)
    if weights is not None:
        load_weights(module, weights, key=key, spec=spec, classes=classes, is_teacher=trained)
    model = (MapModel if is_map else VisionModel)(
        module, chosen_preprocessing({**wishes, **own}, recipe, text), text
    )
    model.sites = _try_out(model, classes, recipe.channels, is_teacher=trained)
    _require_plain_state(module, text)
    return model


def check_model(text: str) -> None:
    """Check what a model's spec names, without making a model: it, and its file of weights.

    Raises:
        UsageError: an unknown model; of the user's own functions also an unknown option.
        ModelError: there is no such file of weights, or it is something else.
    """
    spec = parse_spec(text)
    _require_options(spec)
    options = {name: spec.options[name] for name in spec.options if name not in PREPROCESSING}
    path, _ = _take_weights(spec, options)
    if path is not None:
        check_weight_file(path)
    family = FAMILIES.get(spec.name)
    check = check_own if family is None else family.check
    check(Spec(spec.name, spec.arg, options))


def state_sha256(module: nn.Module) -> str:
    """Return the hash of a model's state: names, types, shapes and bytes of its parameters and
    buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _architecture(text: str) -> str:
    spec = parse_spec(text)
    left_out = ORIGINS.union(PREPROCESSING)
    options = {key: spec.options[key] for key in sorted(spec.options) if key not in left_out}
    return str(Spec(spec.name, spec.arg, options))


def _require_options(spec: Spec) -> None:
    """Raise a UsageError for options that would not do what they seem to."""
    if spec.name not in FAMILIES:
        return
    pretrained = spec.options.get("pretrained", False)
    if not isinstance(pretrained, bool):  # any text would count as true, `False` too
        wanted = "write pretrained=true or pretrained=false"
        raise UsageError(f"model {str(spec)!r}: pretrained is {pretrained!r}; {wanted}")
    if "checkpoint_path" in spec.options:
        wanted = "write weights=FILE"
        raise UsageError(f"model {str(spec)!r}: checkpoint_path is not taken; {wanted}")


def _take_weights(spec: Spec, options: dict[str, Any]) -> tuple[Path | None, str | None]:
    """Take the file of weights, and the part of it that is wanted, out of a model's options."""
    key = options.pop("weights_key", None)
    if not _names_file(spec, options.get("weights")):
        if key is None:
            return None, None
        told = "weights_key names a part of a file of weights; give weights=FILE, too"
        raise UsageError(f"model {str(spec)!r}: {told}")
    text = str(options.pop("weights"))
    if "://" in text:
        raise ModelError(f"weights {text} are an address; download the file, give weights=FILE")
    return Path(text), None if key is None else str(key)


def _names_file(spec: Spec, weights: Any) -> bool:
    """Return whether `weights` is a file, and no name that torchvision or the user knows."""
    if weights is None:
        return False
    family = FAMILIES.get(spec.name)
    if weights == "" or (family is not None and not isinstance(weights, str)):
        raise UsageError(f"model {str(spec)!r}: weights is {weights!r}; write weights=FILE")
    if family is not None and not family.has_named_weights:
        return True
    if not isinstance(weights, str):
        return False
    # any text: of a link that leads nowhere, too
    is_there = os.path.lexists(weights)
    if is_there or "/" in weights or weights.endswith(_WEIGHT_FILES):
        return True
    # a function may know names, if it says so: one with **options takes anything
    return family is None and not names_parameter(
        spec, "weights", "model", FAMILIES, error=ModelError
    )


@torch.no_grad()
def _try_out(
    model: VisionModel,
    classes: int,
    channels: int,
    *,
    is_teacher: bool,
) -> tuple[int, ...]:
    """Run one empty view, and return the sites of its logits.

    Raises:
        ModelError: it fails, or gives something else than logits of so many classes.
    """
    training = model.training
    size = sides(model.preprocessing.size)
    what = f"model {model.spec} on a view of {channels}x{size_text(size)}"
    way_out = "check the recipe's mode and size, or set input_size=N in the model's spec"
    with user_code(what, ModelError, way_out=way_out):
        empty = torch.zeros(1, channels, *size, dtype=torch.uint8, device=model.mean.device)
        logits = model.eval()(empty)
    model.train(training)
    found = logits.shape[-1]
    if found != classes:
        way_out = classes_advice(found) if is_teacher else "give it as many in its spec"
        told = f"gives {found} classes, and {classes} are asked for"
        raise ModelError(f"model {model.spec} {told}: {way_out}")
    if isinstance(model, MapModel):
        _require_stride(size, (logits.shape[2], logits.shape[3]), model.spec)
    return tuple(logits.shape[1:-1])


def _require_stride(size: tuple[int, int], found: tuple[int, int], spec: str) -> None:
    if (
        any(side % part for side, part in zip(size, found, strict=True))
        or size[0] // found[0] != size[1] // found[1]
    ):
        raise ModelError(
            f"model {spec} gives a map of {size_text(found)} for views of {size_text(size)}, which"
            " is no whole stride; use a recipe whose height and width are multiples of it (8, 16"
            " or 32 for most models)"
        )


def _require_plain_state(module: nn.Module, text: str) -> None:
    """Raise a ModelError if a model's state could be neither hashed nor saved."""
    with user_code(f"the state_dict of model {text}", ModelError):
        state = module.state_dict()
    for name, value in state.items():
        is_plain = isinstance(value, Tensor) and value.layout == torch.strided
        if not is_plain or value.is_quantized:
            wanted = "wanted are plain tensors; leave it out of the state, or make it a buffer"
            raise ModelError(f"model {text} has {_kind(value)} as {name} in its state; {wanted}")
    empty = {str(value.dtype): torch.empty(0, dtype=value.dtype) for value in state.values()}
    with user_code(f"saving of model {text}", ModelError, way_out="take another type of float"):
        safetensors_bytes(empty)


def _kind(found: Any) -> str:
    """Return what something is, for messages: its type and shape, or what it holds."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
    name = type(found).__name__
    if isinstance(found, tuple | list) and found:
        return f"a {name} of {len(found)}, first {_kind(found[0])[:60]}"
    if isinstance(found, Mapping) and found:
        return f"a {name} of {', '.join(map(str, found))}"[:120]
    return f"a {name}"
