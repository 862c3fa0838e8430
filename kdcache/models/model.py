"""Teachers and students from a spec, with the preprocessing that each of them needs.

    timm:resnet50,pretrained=true            torchvision:resnet50,weights=DEFAULT
    timm:resnet18,weights=runs/a/student.safetensors
    transformers:google/vit-base-patch16-224
    mypkg.models:build,width=2,mean=0.5,std=0.25,input_size=160

Keys that kdcache takes itself: `weights=FILE` (safetensors, or a torch file read with
weights_only), `weights_key` (the part of that file, where it has several), `head=new` (what depends
on the classes is left out of it), `weights_backbone=FILE` (a classifier's weights for the backbone
of segmentation and detection), `mean`, `std` (one
number for all channels) and `input_size` (`224`, or height and width, `512x1024`). All others go to
the model's constructor, of transformers to the model's configuration. Each family of models has a
file of its own here, and an entry in registry.py.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import UsageError
from kdcache.models.building import Builder, Built
from kdcache.models.own import build_own
from kdcache.models.preprocessing import chosen_preprocessing
from kdcache.models.registry import FAMILIES
from kdcache.models.run_folders import model_spec
from kdcache.models.specs import (
    WeightFiles,
    require_options,
    require_trained,
    take_preprocessing,
    take_weights,
)
from kdcache.models.task_models import model_class
from kdcache.models.trial import require_plain_state, tried
from kdcache.models.vision_model import VisionModel, last_linear_names
from kdcache.models.weight_facts import read_facts
from kdcache.models.weight_misfit import TEACHER_ADVICE
from kdcache.models.weights import load_weights
from kdcache.views import Recipe

_Build = Callable[[Spec, int | None], Built]
"""Makes a model of a spec without weights and preprocessing, for a number of classes, see
`Builder`."""


def open_model(
    text: str,
    *,
    classes: int | None,
    recipe: Recipe,
    trained: bool = False,
    task: str = "classification",
    classes_advice: str = TEACHER_ADVICE,
) -> VisionModel:
    """Return the model that a spec names, for views of `recipe`.

    Args:
        text: the spec, or the folder of a run, see `model_spec`.
        classes: number of classes of the source; None of a trained model without a source, which
            has as many as its library's weights, or its function, give it.
        recipe: gives the channels, and the input size of models that take any.
        trained: whether weights are required, as for a teacher; its head is then never replaced.
        task: of the source, such as `classification`.
        classes_advice: what to do with a trained model of other classes, see `TEACHER_ADVICE`.

    Raises:
        UsageError: an unknown model or option; the nearest is suggested.
        ModelError: weights that are absent, unreadable or of another shape, or another number of
            classes or channels.
    """
    text = model_spec(text)
    asked = _taken_apart(text, classes, classes_advice if trained else None)
    _require_task(asked, task)
    make = model_class(task)
    builder = _builder(asked.spec, task)

    def build(spec: Spec, classes: int | None) -> Built:
        return builder(spec, classes, recipe.channels)

    module, wishes = _with_weights(asked, build)
    preprocessing = chosen_preprocessing({**wishes, **asked.preprocessing}, recipe, text)
    model = make(module, preprocessing, text)
    model.label_names = wishes.get("label_names")
    model.layout, model.num_classes = tried(model, classes, recipe.channels, advice=asked.advice)
    require_plain_state(module, text)
    return model


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A model that is asked for: what its spec says, taken apart, and what it is for."""

    spec: Spec
    """Of the model, whole."""
    bare: Spec
    """What of it is for the model's constructor."""
    files: WeightFiles
    preprocessing: Mapping[str, Any]
    """What the spec says of it, see `PREPROCESSING`."""
    classes: int | None
    """Of the source; None where there is none."""
    advice: str | None
    """What to do with a trained model of other classes, see `TEACHER_ADVICE`; None of a student."""

    @property
    def is_trained(self) -> bool:
        """Whether weights are required, as for a teacher."""
        return self.advice is not None

    @property
    def head_classes(self) -> int | None:
        """Classes that the model is made for; None where it keeps those of its weights: a head of
        another size would be drawn at random, and the class count is checked."""
        keeps_head = self.is_trained or self.files.has_new_head
        if self.files.whole is None and keeps_head:
            return None
        return self.classes


def _taken_apart(text: str, classes: int | None, advice: str | None) -> _Asked:
    """Return what a spec says; of a trained model with the advice for other classes.

    Raises:
        UsageError: an option that would not do what it seems to.
        ModelError: what must be trained has no weights.
    """
    spec = parse_spec(text)
    options = dict(spec.options)
    if "num_classes" in options:
        raise UsageError(
            f"model {text!r}: the number of classes comes from the data ({classes}); leave"
            " num_classes out"
        )
    require_options(spec)
    preprocessing = take_preprocessing(options)
    files = take_weights(spec, options)
    if advice is not None:
        require_trained(spec, options, files)
    family = FAMILIES.get(spec.name)
    if any(files) and family is not None and family.is_pretrained:
        options["pretrained"] = False  # the file has all weights: no others need be there
    return _Asked(
        spec=spec,
        bare=Spec(spec.name, spec.arg, options),
        files=files,
        preprocessing=preprocessing,
        classes=classes,
        advice=advice,
    )


def _require_task(asked: _Asked, task: str) -> None:
    """Raise a UsageError if a trained model's weights say that they are of another task."""
    if not asked.is_trained or asked.files.whole is None:
        return
    facts = read_facts(asked.files.whole)
    if facts is not None and facts.task != task:
        raise UsageError(
            f"model {asked.spec} is of {facts.task}, as its weights say, and one of {task} is"
            f" wanted; take another, or data of {facts.task}"
        )


def _with_weights(asked: _Asked, build: _Build) -> Built:
    """Return the model with the weights of its files, if it has any, and what it wants of a
    view."""
    files = asked.files
    module, wishes = build(asked.bare, asked.head_classes)
    if files.has_new_head and files.whole is None:
        assert asked.classes is not None, "a new head is for the classes of a source"
        module = _with_new_head(module, _without_weights(asked.bare), build, asked.classes)
    if files.whole is not None:
        _load_whole(module, files.whole, asked, build)
    if files.backbone is not None:
        assert asked.classes is not None, "a backbone is opened for the classes of a source"
        load_weights(
            _backbone(module, asked.spec),
            files.backbone,
            key=None,
            spec=asked.spec,
            classes=asked.classes,
            is_backbone=True,
        )
    return module, wishes


def _load_whole(module: Module, path: Path, asked: _Asked, build: _Build) -> None:
    """Give a model the weights of a file; where it is to have a new head, but for that."""
    assert asked.classes is not None, "a file of weights is opened for a number of classes"
    drawn_names: Collection[str] = ()
    if asked.files.has_new_head:
        drawn_names = _class_names(module, asked.bare, build, asked.classes)
    load_weights(
        module,
        path,
        key=asked.files.key,
        spec=asked.spec,
        classes=asked.classes,
        advice=asked.advice,
        drawn_names=drawn_names,
    )


def _without_weights(spec: Spec) -> Spec:
    """Return the spec of the same model with fresh weights."""
    options = dict(spec.options)
    options.pop("weights", None)
    options.pop("pretrained", None)
    if FAMILIES[spec.name].is_pretrained:
        options["pretrained"] = False
    return Spec(spec.name, spec.arg, options)


def _with_new_head(trained: Module, fresh: Spec, build: _Build, classes: int) -> Module:
    """Return a fresh model that has the weights of a trained one, but for those that depend on the
    classes."""
    module, _ = build(fresh, classes)
    drawn_names = _class_names(module, fresh, build, classes)
    state = module.state_dict()
    for name, tensor in trained.state_dict().items():
        if name in state and name not in drawn_names:  # a library may leave auxiliary heads out
            state[name] = tensor
    module.load_state_dict(state)
    return module


def _class_names(module: Module, spec: Spec, build: _Build, classes: int) -> Collection[str]:
    """Return the names of a model's tensors that depend on the number of classes: those that have
    another shape in the same model of one more. Functions of the user's are not told how many there
    are: of their models it is the last linear layer."""
    if spec.name not in FAMILIES:
        return last_linear_names(module)
    with torch.random.fork_rng():
        other_state = build(spec, classes + 1)[0].state_dict()
    names = set()
    for name, tensor in module.state_dict().items():
        if name not in other_state or other_state[name].shape != tensor.shape:
            names.add(name)
    return names


def _backbone(module: Module, spec: Spec) -> Module:
    """Return the part of a model that a classifier's weights are for.

    Raises:
        UsageError: it has none.
    """
    backbone = getattr(module, "backbone", None)
    if not isinstance(backbone, Module):
        raise UsageError(
            f"model {str(spec)!r} has no part that is called backbone; of a classifier give"
            " weights=FILE,head=new"
        )
    body = getattr(backbone, "body", None)  # of torchvision's detectors
    if isinstance(body, Module):
        return body
    return backbone


def _builder(spec: Spec, task: str) -> Builder:
    """Return what makes models of a spec's family for a task.

    Raises:
        UsageError: the family has none for it.
    """
    family = FAMILIES.get(spec.name)
    if family is None:
        return build_own
    builder = family.builders.get(task)
    if builder is None:
        raise UsageError(
            f"model {spec}: of {spec.name} kdcache knows no models of {task}; take one of"
            " torchvision, or a function of yours"
        )
    return builder
