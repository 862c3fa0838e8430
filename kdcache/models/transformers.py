"""Models of Hugging Face transformers: image classifiers, and models of semantic segmentation.

    transformers:google/vit-base-patch16-224            a repository of the hub
    transformers:runs/vit,pretrained=false              a folder with a config.json
    transformers:nvidia/segformer-b0-finetuned-ade-512-512,revision=REVISION

Weights are those beside the configuration, unless the spec says weights=FILE or pretrained=false.
They are read as safetensors, or with weights_only; no code of a repository is run. A module has the
names of transformers in its state, and gives logits alone.
"""

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from kdcache.config.spec import Spec, choose
from kdcache.errors import ModelError, UsageError, brief, quoted
from kdcache.models.building import Built, Family, constructing
from kdcache.models.hub_files import CONFIG, WEIGHTS, download_weights, downloaded
from kdcache.models.image_processor import ProcessedViews, processed_views
from kdcache.models.weight_formats import check_weight_file, some_names
from kdcache.runtime.console import say
from kdcache.runtime.user_code import exception_text

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CLASSES_ARE_THE_DATAS = "the number of classes comes from the data; leave it out"
_REFUSED = {
    "trust_remote_code": "no code of a repository is run; leave it out",
    "dtype": "weights are float32, and a command's --precision decides; leave it out",
    "torch_dtype": "weights are float32, and a command's --precision decides; leave it out",
    "num_labels": _CLASSES_ARE_THE_DATAS,
    "id2label": _CLASSES_ARE_THE_DATAS,
    "label2id": _CLASSES_ARE_THE_DATAS,
}
_OWN_OPTIONS = frozenset(("pretrained", "revision"))
"""Options that are not the configuration's."""


class _Kind(NamedTuple):
    """What transformers calls a kind of models."""

    words: str
    auto_class: str
    """The class that makes one of any architecture."""
    architectures: str
    """The table of those that there are."""


_CLASSIFIER = _Kind(
    "an image classifier",
    "AutoModelForImageClassification",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
)
_SEGMENTER = _Kind(
    "a model of semantic segmentation",
    "AutoModelForSemanticSegmentation",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
)


def build_classifier(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return an image classifier, with the mean, std and input size of its image processor.

    Raises:
        UsageError: an option that its configuration does not have, or of a wrong value.
        ModelError: transformers is not installed; the repository, its configuration or its weights
            cannot be had; it is another kind of model, or has no trained head where it must.
    """
    module, config, views = _built(spec, classes, channels, _CLASSIFIER)
    own_size = getattr(config, "image_size", None)
    if "image_size" in spec.options or views is None or views.size is None:
        size = own_size
    else:
        size = views.size
    return module, {**_normalisation(views), "input_size": size}


def build_segmenter(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a model of semantic segmentation, with the mean and std of its image processor; the
    size is the recipe's.

    Raises:
        KdcacheError: as `build_classifier`.
    """
    module, _, views = _built(spec, classes, channels, _SEGMENTER)
    return module, _normalisation(views)


def _check(spec: Spec) -> None:
    """Check what can be known without the network, and without importing transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"model {spec} needs transformers; pip install 'kdcache[hub]'")
    for option in spec.options:
        if option in _REFUSED:
            raise UsageError(f"model {spec}: option {option} is not taken: {_REFUSED[option]}")
    folder = _local_folder(spec)
    if folder is None:
        return
    if "revision" in spec.options:
        raise UsageError(f"model {spec}: a folder has no revisions; leave revision out")
    if not (folder / CONFIG).is_file():
        there = some_names(sorted(path.name for path in folder.iterdir())) or "nothing"
        way_out = "name a folder that save_pretrained wrote"
        raise ModelError(f"model {spec}: folder {folder} has no {CONFIG}, but {there}; {way_out}")


def _local_folder(spec: Spec) -> Path | None:
    """Return the folder that a spec names; None if it names a repository of the hub.

    Raises:
        UsageError: it names nothing.
        ModelError: it can be neither.
    """
    name = spec.arg or ""
    if not name:
        example = "write transformers:google/vit-base-patch16-224, or transformers:FOLDER"
        raise UsageError(f"model {spec} names no repository of the hub, and no folder; {example}")
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not _REPOSITORY.fullmatch(name) or name.startswith("."):
        wanted = f"give a folder with {CONFIG}, or a repository of the hub as OWNER/NAME"
        raise ModelError(f"model {spec}: there is no folder {brief(name)}; {wanted}")
    return None


def _built(
    spec: Spec, classes: int | None, channels: int, wanted: _Kind
) -> tuple[nn.Module, Any, ProcessedViews | None]:
    """Return a model that gives logits, its configuration, and what its images are like; None if
    no image processor lies beside it."""
    _check(spec)
    local_folder = _local_folder(spec)
    with _quiet():
        folder = local_folder or downloaded(spec, spec.options.get("revision"))
        stored = _stored_configuration(spec, folder)
        auto = _auto_class(spec, stored, wanted)
        config = _configuration(spec, stored)
        if classes is not None and config.num_labels != classes:
            config.num_labels = classes
        _set_channels(spec, config, channels)
        if not _is_pretrained(spec):
            with constructing(spec, "check its configuration and its options"):
                module = auto.from_config(config)
        else:
            if local_folder is None:
                download_weights(spec, folder.name)
            module = _with_weights(spec, auto, config, folder, is_teacher=classes is None)
        views = processed_views(folder, channels)
    if views is not None and views.is_bgr:
        module.register_forward_pre_hook(_reverse_channels)
    module.register_forward_hook(_take_logits)
    module.other_names = _names_in_files(module)
    return module.train(), config, views


def _is_pretrained(spec: Spec) -> bool:
    return bool(spec.options.get("pretrained", True))


def _normalisation(views: ProcessedViews | None) -> dict[str, Any]:
    if views is None:
        return {"mean": None, "std": None}
    return {"mean": views.mean, "std": views.std}


def _take_logits(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    return getattr(output, "logits", output)


def _reverse_channels(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = arguments
    return images.flip(1), *others


def _names_in_files(module: Any) -> dict[str, str]:
    """Return by their names in files of transformers the names that weights have in a module, of
    those that differ."""
    state = module.state_dict()
    names = {id(tensor): name for name, tensor in state.items()}
    try:
        from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415

        as_written = revert_weight_conversion(module, state)
    except Exception:  # of a version without it, or that cannot: files have the module's names then
        return {}
    found = {}
    for written, tensor in as_written.items():
        name = names.get(id(tensor), written)
        if name != written:
            found[written] = name
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers and the hub's client log: what matters is raised or said."""
    import huggingface_hub  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    hub = huggingface_hub.utils.logging
    own = transformers.utils.logging
    levels = (hub.get_verbosity(), own.get_verbosity())
    has_bars = own.is_progress_bar_enabled()
    hub.set_verbosity_error()
    own.set_verbosity_error()
    own.disable_progress_bar()
    try:
        yield
    finally:
        hub.set_verbosity(levels[0])
        own.set_verbosity(levels[1])
        if has_bars:
            own.enable_progress_bar()


def _require_weights(spec: Spec, folder: Path) -> None:
    """Check that weights lie beside a configuration, and are files of weights.

    Raises:
        ModelError: there are none, or they are something else, such as a git-lfs pointer.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            check_weight_file(folder / name)
            return
        if (folder / f"{name}.index.json").is_file():
            return  # of several files: transformers finds what is missing
    way_out = "add weights=FILE, or pretrained=false for fresh ones"
    raise ModelError(f"model {spec} has no {' or '.join(WEIGHTS)} in {folder}; {way_out}")


def _stored_configuration(spec: Spec, folder: Path) -> dict[str, Any]:
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


def _auto_class(spec: Spec, stored: Mapping[str, Any], wanted: _Kind) -> Any:
    """Return the class of transformers that makes models of a kind.

    Raises:
        ModelError: a configuration is of another kind of model, or of none.
    """
    import transformers  # noqa: PLC0415
    from transformers.models.auto import modeling_auto  # noqa: PLC0415

    kind = stored.get("model_type")
    if not isinstance(kind, str):
        if "architecture" in stored:
            way_out = f"it is one of timm: write timm:hf-hub:{spec.arg}"
        else:
            way_out = "it is no configuration of transformers"
        raise ModelError(f"model {spec}: its {CONFIG} has no model_type; {way_out}")
    if kind not in transformers.CONFIG_MAPPING:
        version = transformers.__version__
        if "auto_map" in stored:
            way_out = "it comes as code of its repository, and none is run; take another model"
        else:
            way_out = "take another model, or another version of transformers"
        raise ModelError(
            f"model {spec} is of type {quoted(kind)}, unknown to transformers {version}; {way_out}"
        )
    known = getattr(modeling_auto, wanted.architectures)
    if kind not in known:
        architectures = stored.get("architectures") or [kind]
        raise ModelError(
            f"model {spec} is {brief(architectures[0])}, of type {quoted(kind)}; wanted is"
            f" {wanted.words}, such as {_examples(known)}"
        )
    return getattr(transformers, wanted.auto_class)


def _examples(kinds: Mapping[str, Any]) -> str:
    usual = ("vit", "convnext", "swin", "segformer", "upernet", "beit")
    return ", ".join(kind for kind in usual if kind in kinds)


def _configuration(spec: Spec, stored: Mapping[str, Any]) -> Any:
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
    options = {name: value for name, value in spec.options.items() if name not in _OWN_OPTIONS}
    if not options:
        return config
    known = [name for name in config.to_dict() if name not in _REFUSED]
    for option in options:
        choose(option, known, f"option of model {spec.name}:{brief(spec.arg)},")
    try:
        return make.from_dict({**content, **options})
    except Exception as error:  # of transformers' checks
        raise UsageError(f"model {spec}: {exception_text(error)}; check its options") from error


def _set_channels(spec: Spec, config: Any, channels: int) -> None:
    """Let a model of fresh weights take views of so many channels.

    Raises:
        ModelError: it cannot, or its trained weights are for others.
    """
    parts = [
        config,
        *(getattr(config, name, None) for name in ("vision_config", "backbone_config")),
    ]
    sized = [part for part in parts if getattr(part, "num_channels", None) is not None]
    for part in sized:
        if not _is_pretrained(spec):
            part.num_channels = channels
    found = sized[0].num_channels if sized else 3
    if found != channels:
        mode = "RGB" if found == 3 else "L"
        way_out = f'use a recipe with mode = "{mode}"'
        raise ModelError(f"model {spec} takes images of {found} channels; {way_out}")


def _with_weights(spec: Spec, auto: Any, config: Any, folder: Path, *, is_teacher: bool) -> Any:
    """Return a model with the weights of a folder; what a student's head lacks is drawn at random.

    Raises:
        ModelError: they are not there, cannot be read, or do not fit.
    """
    _require_weights(spec, folder)
    with constructing(spec, "copy or download its weights again"):
        module, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,
        )
    reshaped = {
        name: (tuple(theirs), tuple(own)) for name, theirs, own in report["mismatched_keys"]
    }
    drawn = sorted({*report["missing_keys"], *reshaped})
    body = [name for name in drawn if name.startswith(_body_prefix(module))]
    if body:
        what = _difference(body[0], reshaped)
        way_out = "check its options; pretrained=false takes fresh weights"
        raise ModelError(
            f"model {spec}: its weights do not fit its configuration: {what}; {way_out}"
        )
    if drawn and is_teacher:
        what = _difference(drawn[0], reshaped)
        way_out = "a teacher must be trained for the classes: take one that is, or add weights=FILE"
        raise ModelError(f"teacher {spec} has no trained head: {what}; {way_out}")
    if drawn:
        head = f"a fresh head for {config.num_labels} classes"
        say(f"note: model {spec} has {head}: {some_names(drawn)}")
    return module


def _body_prefix(module: Any) -> str:
    """Return how the names of all that is no head begin."""
    name = module.base_model_prefix
    return f"{name}." if name and hasattr(module, name) else "backbone."


def _difference(name: str, reshaped: Mapping[str, tuple[Any, Any]]) -> str:
    if name not in reshaped:
        return f"{brief(name)} is not in them"
    theirs, own = reshaped[name]
    return f"{brief(name)} is {theirs} in them, {own} in the model"


TRANSFORMERS = Family(build_classifier, build_segmenter, _check, is_pretrained=True)
