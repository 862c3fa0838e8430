"""Teachers and students from a spec, with the preprocessing that each of them needs.

    timm:resnet50,pretrained=true            torchvision:resnet50,weights=DEFAULT
    timm:resnet18,weights=runs/a/student.safetensors
    mypkg.models:build,width=2,mean=0.5,std=0.25,input_size=160

Keys that kdcache takes itself: `weights=FILE` (safetensors, or a torch file read with weights_only), `mean`, `std` (one number
for all channels) and `input_size` (`224`, or height and width, `512x1024`). All others go to the model's constructor. Models of
segmentation are built in segmenters.py.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdcache.errors import ModelError, UsageError
from kdcache.segmenters import BUILDERS as SEGMENTERS
from kdcache.segmenters import stacked_maps
from kdcache.shapes import Size, ViewLogits, Views, as_size, sides, size_text
from kdcache.spec import Spec, choose, load_function, parse_spec
from kdcache.views import Recipe

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PREPROCESSING = ("mean", "std", "input_size")
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants of a view: `size` in pixels, and `mean` and `std` per channel of pixels scaled to 0 to 1."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]


class VisionModel(nn.Module):
    """A classifier that takes views as they are rendered, and normalises them itself, on its own device.

    `architecture` is its spec without what does not decide how its state is used: weights and preprocessing. `sites` is the
    shape of a view's logits but for the classes, which follows from its input size: empty.
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
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) * 255, persistent=False)

    def forward(self, views: Views) -> ViewLogits:
        """Return class logits, `[views, *sites, classes]`.

        Raises:
            ModelError: the module gives something else.
        """
        return self._logits(self.module(torch.sub(views, self.mean).div_(self.std)))

    def _logits(self, found: Any) -> ViewLogits:
        if not isinstance(found, Tensor):
            raise ModelError(
                f"model {self.spec} gives a {type(found).__name__}, not logits; if it has auxiliary heads for training, "
                "switch them off in its spec (aux_logits=false)"
            )
        return found


class MapModel(VisionModel):
    """A model of segmentation: `sites` are (heads, height, width), the heads main first."""

    def _logits(self, found: Any) -> ViewLogits:
        return stacked_maps(found, self.spec)

    @property
    def stride(self) -> int:
        """Pixels of a view to one of its maps, along each side."""
        return sides(self.preprocessing.size)[0] // self.sites[1]


def head_weight(model: VisionModel, classes: int) -> Tensor | None:
    """Return the weights of the last linear layer, float32 `[classes, features]`, or None if it does not give the classes."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not linear or linear[-1].weight.shape[0] != classes or linear[-1].weight[0, 0].numel() != 1:
        return None
    return linear[-1].weight.detach().flatten(1).float().cpu()


def open_model(text: str, *, classes: int, recipe: Recipe, trained: bool = False, task: str = "classification") -> VisionModel:
    """Return the model that a spec names, for views of `recipe`.

    Args:
        text: the spec.
        classes: number of classes of the source.
        recipe: gives the channels, and the input size of models that take any.
        trained: whether weights are required, as for a teacher; its head is then never replaced.
        task: `classification` or `segmentation`, the source's.

    Raises:
        UsageError: an unknown model or option; the nearest is suggested.
        ModelError: weights that are absent, unreadable or of another shape, or another number of classes or channels.
    """
    spec = parse_spec(text)
    options = dict(spec.options)
    if "num_classes" in options:
        raise UsageError(f"model {text!r}: the number of classes comes from the data ({classes}); leave num_classes out")
    own: dict[str, Any] = {key: options.pop(key) for key in _PREPROCESSING if key in options}
    weights = options.pop("weights") if _is_file(options.get("weights")) else None
    if trained and weights is None and not (options.get("pretrained") or options.get("weights")) and spec.name in _BUILDERS:
        raise ModelError(f"teacher {text!r} has no weights; add weights=FILE or pretrained=true")
    # a head of another size would be drawn at random: a pretrained teacher keeps its own, and the class count is checked
    head = None if trained and weights is None else classes
    bare = Spec(spec.name, spec.arg, options)
    is_map = task == "segmentation"
    build = (SEGMENTERS if is_map else _BUILDERS).get(spec.name, _build_own)
    module, wishes = build(bare, head, recipe.channels)
    if weights is not None:
        _load_weights(module, Path(str(weights)), classes)
    model = (MapModel if is_map else VisionModel)(module, _preprocessing({**wishes, **own}, recipe, text), text)
    model.sites = _try_out(model, classes, recipe.channels)
    return model


def state_sha256(module: nn.Module) -> str:
    """Return the hash of a model's state: names, types, shapes and bytes of its parameters and buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _build_timm(spec: Spec, classes: int | None, channels: int) -> tuple[nn.Module, dict[str, Any]]:
    import timm  # noqa: PLC0415

    options: dict[str, Any] = dict(spec.options)
    if classes is not None:
        options["num_classes"] = classes
    name = spec.arg or ""
    if not name.startswith("hf") and not timm.is_model(name):
        choose(name, timm.list_models(), "timm model")
    try:
        module = timm.create_model(name, in_chans=channels, **options)
    except TypeError as error:
        raise UsageError(f"model {spec}: {error}") from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"model {spec}: {_line(error)}; with pretrained=true the weights must be reachable") from error
    config = timm.data.resolve_model_data_config(module)
    fixed = (module.pretrained_cfg or {}).get("fixed_input_size", False)
    size = options.get("img_size") or (config["input_size"][-1] if fixed else None)
    return module, {"mean": config["mean"], "std": config["std"], "input_size": size}


def _build_torchvision(spec: Spec, classes: int | None, channels: int) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models  # noqa: PLC0415

    if channels != 3:
        raise ModelError(f'model {spec} takes colour images only; use a recipe with mode = "RGB"')
    options: dict[str, Any] = dict(spec.options)
    name = choose(spec.arg or "", models.list_models(module=models), "torchvision model")
    weights = options.pop("weights", None) or ("DEFAULT" if options.pop("pretrained", False) else None)
    try:
        entry = models.get_model_weights(name)[weights] if weights else None
    except KeyError:
        choose(
            str(weights),
            [*models.get_model_weights(name).__members__],
            f"weights of {name} (and no such file)",
        )
    try:
        module = models.get_model(name, weights=entry, **options, **({} if entry or not classes else {"num_classes": classes}))
        if entry and classes and classes != len(entry.meta["categories"]):
            raise ModelError(f"model {spec}: its weights have {len(entry.meta['categories'])} classes, the source {classes}")
    except TypeError as error:
        raise UsageError(f"model {spec}: {error}") from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"model {spec}: {_line(error)}") from error
    wishes: dict[str, Any] = {"input_size": getattr(module, "image_size", None)}
    if entry:
        preset = entry.transforms()
        wishes.update(mean=preset.mean, std=preset.std)
    return module, wishes


def _build_own(spec: Spec, classes: int | None, channels: int) -> tuple[nn.Module, dict[str, Any]]:
    module = load_function(spec, "model", _BUILDERS)
    if not isinstance(module, nn.Module):
        raise ModelError(f"model {spec} gave a {type(module).__name__}; the function must return a torch.nn.Module")
    return module, {}


_BUILDERS: dict[str, Callable[[Spec, int | None, int], tuple[nn.Module, dict[str, Any]]]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
}


def _architecture(text: str) -> str:
    spec = parse_spec(text)
    options = {key: value for key, value in spec.options.items() if key not in (*_PREPROCESSING, "weights", "pretrained")}
    return str(Spec(spec.name, spec.arg, dict(sorted(options.items()))))


def _is_file(weights: Any) -> bool:
    return isinstance(weights, str) and (weights.endswith(_WEIGHT_FILES) or Path(weights).is_file())


def _load_weights(module: nn.Module, path: Path, classes: int) -> None:
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(
            f"weights file {path} cannot be read as plain tensors ({_line(error)[:160]}); save its state_dict as safetensors"
        ) from error
    for key in ("state_dict", "model", "student"):  # timm's and Lightning's, torchvision's, and our own checkpoints
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ModelError(f"weights file {path} holds a {type(state).__name__}, not a state_dict")
    own = module.state_dict()
    left_out: tuple[str, ...] = getattr(module, "not_loaded", ())
    for prefix in ("module.", "_orig_mod."):  # of data-parallel and of compiled models
        if all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(left_out)}
    wrong = [
        f"{key} is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    wrong += [f"{key} is missing in the file" for key in own.keys() - state.keys()]
    wrong += [f"{key} is unknown to the model" for key in state.keys() - own.keys()]
    if wrong:
        raise ModelError(
            f"weights file {path} does not fit the model for {classes} classes: {sorted(wrong)[0]} "
            f"({len(wrong)} tensors differ); check the model's name, its options and the data set's classes"
        )
    module.load_state_dict(state)


def _preprocessing(wishes: Mapping[str, Any], recipe: Recipe, text: str) -> Preprocessing:
    size = wishes.get("input_size") or recipe.input_size
    mean, std = wishes.get("mean", _IMAGENET[0]), wishes.get("std", _IMAGENET[1])
    try:
        return Preprocessing(_size(size), _per_channel(mean, recipe.channels), _per_channel(std, recipe.channels))
    except (TypeError, ValueError) as error:
        raise UsageError(f"model {text!r}: mean, std and input_size must be numbers ({error})") from error


def _size(value: Any) -> Size:
    """Return a size given as a number, as `512x1024`, or as it is."""
    if isinstance(value, str):
        height, width = (int(part) for part in value.split("x"))
        return as_size((height, width))
    return value if isinstance(value, tuple) else int(value)


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    numbers = [float(value) for value in (values if isinstance(values, (tuple, list)) else [values])]
    if len(numbers) == channels:
        return tuple(numbers)
    return (sum(numbers) / len(numbers),) * channels  # colour statistics on grey images


@torch.no_grad()
def _try_out(model: VisionModel, classes: int, channels: int) -> tuple[int, ...]:
    """Run one empty view, and return the sites of its logits: a model of another shape is told before the work starts."""
    training = model.training
    size = sides(model.preprocessing.size)
    try:
        logits = model.eval()(torch.zeros(1, channels, *size, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model {model.spec} fails on views of {channels}x{size_text(size)}: {_line(error)}; "
            "check the recipe's mode and size, or set input_size=N in the model's spec"
        ) from error
    model.train(training)
    is_map = isinstance(model, MapModel)
    if logits.ndim != (5 if is_map else 2) or logits.shape[-1] != classes:
        shape = (logits.shape[-1], *logits.shape[2:-1]) if is_map else tuple(logits.shape[1:])
        raise ModelError(
            f"model {model.spec} gives logits of shape {shape} per view; the source has {classes} classes: "
            "choose weights and data of the same classes"
        )
    if is_map:
        _require_stride(size, tuple(logits.shape[2:4]), model.spec)
    return tuple(logits.shape[1:-1])


def _require_stride(size: tuple[int, int], found: tuple[int, int], spec: str) -> None:
    if any(side % part for side, part in zip(size, found, strict=True)) or size[0] // found[0] != size[1] // found[1]:
        raise ModelError(
            f"model {spec} gives a map of {size_text(found)} for views of {size_text(size)}, which is no whole stride; "
            "use a recipe whose height and width are multiples of it (8, 16 or 32 for most models)"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
