"""Configurations of Hugging Face transformers: read from a config.json, changed by the options of
a spec, and of which kind of model they are.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError, brief, quoted
from kdcache.models.hub_files import CONFIG
from kdcache.runtime.user_code import exception_text

_CLASSES_ARE_THE_DATAS = "the number of classes comes from the data; leave it out"
REFUSED_OPTIONS = {
    "trust_remote_code": "no code of a repository is run; leave it out",
    "dtype": "weights are float32, and a command's --precision decides; leave it out",
    "torch_dtype": "weights are float32, and a command's --precision decides; leave it out",
    "num_labels": _CLASSES_ARE_THE_DATAS,
    "id2label": _CLASSES_ARE_THE_DATAS,
    "label2id": _CLASSES_ARE_THE_DATAS,
}
"""Options that are not taken, with the reason."""
_OWN_OPTIONS = frozenset(("pretrained", "revision"))
"""Options that are not the configuration's."""


class Kind(NamedTuple):
    """What transformers calls a kind of models."""

    words: str
    auto_class: str
    """The class that makes one of any architecture."""
    architectures: str
    """The table of those that there are."""


CLASSIFIER = Kind(
    "an image classifier",
    "AutoModelForImageClassification",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
)
SEGMENTER = Kind(
    "a model of semantic segmentation",
    "AutoModelForSemanticSegmentation",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
)


def is_pretrained(spec: Spec) -> bool:
    """Return whether a model takes the weights beside its configuration."""
    return bool(spec.options.get("pretrained", True))


def stored_configuration(spec: Spec, folder: Path) -> dict[str, Any]:
    """Return what a config.json holds."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        way_out = "copy or download it again"
        raise ModelError(f"{path} cannot be read: {exception_text(error)}; {way_out}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ModelError(f"{path} holds a {kind}, no configuration; copy or download it again")
    return content


def auto_class(spec: Spec, stored: Mapping[str, Any], kind: Kind) -> Any:
    """Return the class of transformers that makes models of a kind.

    Raises:
        ModelError: a configuration is of another kind of model, or of none.
    """
    import transformers  # noqa: PLC0415
    from transformers.models.auto import modeling_auto  # noqa: PLC0415

    model_type = stored.get("model_type")
    if not isinstance(model_type, str):
        if "architecture" in stored:
            way_out = f"it is one of timm: write timm:hf-hub:{spec.arg}"
        else:
            way_out = "it is no configuration of transformers"
        raise ModelError(f"model {spec}: its {CONFIG} has no model_type; {way_out}")
    if model_type not in transformers.CONFIG_MAPPING:
        version = transformers.__version__
        if "auto_map" in stored:
            way_out = "it comes as code of its repository, and none is run; take another model"
        else:
            way_out = "take another model, or another version of transformers"
        raise ModelError(
            f"model {spec} is of type {quoted(model_type)}, unknown to transformers {version};"
            f" {way_out}"
        )
    architectures = getattr(modeling_auto, kind.architectures)
    if model_type not in architectures:
        own_architectures = stored.get("architectures") or [model_type]
        raise ModelError(
            f"model {spec} is {brief(own_architectures[0])}, of type {quoted(model_type)}; wanted"
            f" is {kind.words}, such as {_examples(architectures)}"
        )
    return getattr(transformers, kind.auto_class)


def configuration(spec: Spec, stored: Mapping[str, Any]) -> Any:
    """Return the configuration of transformers that a config.json holds, changed by options.

    Raises:
        ModelError: transformers does not take it.
        UsageError: an option that it does not have, or of a value that it does not take.
    """
    import transformers  # noqa: PLC0415

    make = transformers.CONFIG_MAPPING[stored["model_type"]]
    content = {**stored, "architectures": stored.get("architectures") or []}
    try:
        config = make.from_dict(dict(content))
    except Exception as error:  # of transformers' checks
        way_out = "it was damaged, or written by another version of transformers"
        raise ModelError(
            f"model {spec}: its {CONFIG} cannot be used: {exception_text(error)}; {way_out}"
        ) from error
    options = dict(spec.options)
    for name in _OWN_OPTIONS:
        options.pop(name, None)
    if not options:
        return config
    choices = [name for name in config.to_dict() if name not in REFUSED_OPTIONS]
    for option in options:
        choose(option, choices, f"option of model {spec.name}:{brief(spec.arg)},")
    try:
        return make.from_dict({**content, **options})
    except Exception as error:  # of transformers' checks
        raise UsageError(f"model {spec}: {exception_text(error)}; check its options") from error


def set_channels(spec: Spec, config: Any, channels: int) -> None:
    """Let a model of fresh weights take views of so many channels.

    Raises:
        ModelError: it cannot, or its trained weights are for others.
    """
    parts = _parts_with_channels(config)
    if not is_pretrained(spec):
        for part in parts:
            part.num_channels = channels
    num_channels = 3
    if parts:
        num_channels = parts[0].num_channels
    if num_channels != channels:
        mode = "RGB" if num_channels == 3 else "L"
        way_out = f'use a recipe with mode = "{mode}"'
        raise ModelError(f"model {spec} takes images of {num_channels} channels; {way_out}")


def _parts_with_channels(config: Any) -> list[Any]:
    """Return a configuration and those inside it, of those that say a number of channels."""
    vision_config = getattr(config, "vision_config", None)
    backbone_config = getattr(config, "backbone_config", None)
    parts = [config, vision_config, backbone_config]
    return [part for part in parts if getattr(part, "num_channels", None) is not None]


def _examples(architectures: Mapping[str, Any]) -> str:
    usual = ("vit", "convnext", "swin", "segformer", "upernet", "beit")
    return ", ".join([name for name in usual if name in architectures])
