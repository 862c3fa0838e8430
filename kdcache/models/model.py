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

import os
from pathlib import Path
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.config.user_functions import names_parameter
from kdcache.errors import ModelError, UsageError
from kdcache.models.building import Builder, Family
from kdcache.models.own import build_own, check_own
from kdcache.models.preprocessing import PREPROCESSING, chosen_preprocessing
from kdcache.models.registry import FAMILIES
from kdcache.models.task_models import model_class
from kdcache.models.trial import require_plain_state, tried_layout
from kdcache.models.vision_model import VisionModel
from kdcache.models.weight_formats import check_weight_file
from kdcache.models.weights import load_weights
from kdcache.views import Recipe

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


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
    stated_wishes = _take_preprocessing(options)
    path, key = _take_weights(spec, options)
    family = FAMILIES.get(spec.name)
    if trained and path is None:
        _require_trained(text, family, options)
    if path is not None and family is not None and family.is_pretrained:
        options["pretrained"] = False  # the file has all weights: no others need be there
    head_classes: int | None = classes
    if trained and path is None:
        # a head of another size would be drawn at random: a pretrained teacher keeps its own, and
        # the class count is checked
        head_classes = None
    make = model_class(task)
    build = _builder(spec, family, task)
    bare = Spec(spec.name, spec.arg, options)
    module, wishes = build(bare, head_classes, recipe.channels)
    if path is not None:
        load_weights(module, path, key=key, spec=spec, classes=classes, is_teacher=trained)
    preprocessing = chosen_preprocessing({**wishes, **stated_wishes}, recipe, text)
    model = make(module, preprocessing, text)
    model.layout = tried_layout(model, classes, recipe.channels, is_teacher=trained)
    require_plain_state(module, text)
    return model


def check_model(text: str) -> None:
    """Check what a model's spec names, without making a model: it, and its file of weights.

    Raises:
        UsageError: an unknown model; of the user's own functions also an unknown option.
        ModelError: there is no such file of weights, or it is something else.
    """
    spec = parse_spec(text)
    _require_options(spec)
    options = dict(spec.options)
    _take_preprocessing(options)
    path, _ = _take_weights(spec, options)
    if path is not None:
        check_weight_file(path)
    bare = Spec(spec.name, spec.arg, options)
    family = FAMILIES.get(spec.name)
    if family is None:
        check_own(bare)
    else:
        family.check(bare)


def _require_options(spec: Spec) -> None:
    """Raise a UsageError for options that would not do what they seem to."""
    if spec.name not in FAMILIES:
        return
    pretrained = spec.options.get("pretrained", False)
    if not isinstance(pretrained, bool):  # any text would count as true, `False` too
        way_out = "write pretrained=true or pretrained=false"
        raise UsageError(f"model {str(spec)!r}: pretrained is {pretrained!r}; {way_out}")
    if "checkpoint_path" in spec.options:
        way_out = "write weights=FILE"
        raise UsageError(f"model {str(spec)!r}: checkpoint_path is not taken; {way_out}")


def _require_trained(text: str, family: Family | None, options: dict[str, Any]) -> None:
    """Raise a ModelError if a teacher without a file of weights would have fresh ones; of the
    user's own functions nothing is known."""
    if family is None:
        return
    is_pretrained = options.get("pretrained", family.is_pretrained)
    if not is_pretrained and not options.get("weights"):
        raise ModelError(f"teacher {text!r} has no weights; add weights=FILE or pretrained=true")


def _builder(spec: Spec, family: Family | None, task: str) -> Builder:
    if family is None:
        return build_own
    builder = family.builders.get(task)
    if builder is None:
        raise UsageError(
            f"model {spec}: of {spec.name} kdcache knows no models of {task}; take one of"
            " torchvision, or a function of yours"
        )
    return builder


def _take_preprocessing(options: dict[str, Any]) -> dict[str, Any]:
    """Take what says how images are prepared out of a model's options."""
    wishes = {}
    for key in PREPROCESSING:
        if key in options:
            wishes[key] = options.pop(key)
    return wishes


def _take_weights(spec: Spec, options: dict[str, Any]) -> tuple[Path | None, str | None]:
    """Take the file of weights, and the part of it that is named, out of a model's options."""
    key = options.pop("weights_key", None)
    if not _names_file(spec, options.get("weights")):
        if key is None:
            return None, None
        raise UsageError(
            f"model {str(spec)!r}: weights_key names a part of a file of weights; give"
            " weights=FILE, too"
        )
    text = str(options.pop("weights"))
    if "://" in text:
        raise ModelError(f"weights {text} are an address; download the file, give weights=FILE")
    if key is not None:
        key = str(key)
    return Path(text), key


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
    exists = os.path.lexists(weights)
    if exists or "/" in weights or weights.endswith(_WEIGHT_FILES):
        return True
    # a function may know names, if it says so: one with **options takes anything
    return family is None and not names_parameter(
        spec, "weights", "model", FAMILIES, error=ModelError
    )
