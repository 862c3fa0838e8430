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

from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.building import Builder, Family
from kdcache.models.own import build_own
from kdcache.models.preprocessing import chosen_preprocessing
from kdcache.models.registry import FAMILIES
from kdcache.models.specs import require_options, take_preprocessing, take_weights
from kdcache.models.task_models import model_class
from kdcache.models.trial import require_plain_state, tried_layout
from kdcache.models.vision_model import VisionModel
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
    require_options(spec)
    stated_wishes = take_preprocessing(options)
    path, key = take_weights(spec, options)
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
