"""Models of Hugging Face transformers: image classifiers, and models of semantic segmentation.

    transformers:google/vit-base-patch16-224            a repository of the hub
    transformers:runs/vit,pretrained=false              a folder with a config.json
    transformers:nvidia/segformer-b0-finetuned-ade-512-512,revision=REVISION

Weights are those beside the configuration, unless the spec says weights=FILE or pretrained=false.
They are read as safetensors, or with weights_only; no code of a repository is run. A module has the
names of transformers in its state.
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError, brief
from kdcache.models.building import Built, constructing
from kdcache.models.hub_files import CONFIG, download_weights, downloaded
from kdcache.models.image_processor import ProcessedViews, processed_views
from kdcache.models.transformers_configuration import (
    CLASSIFIER,
    REFUSED_OPTIONS,
    SEGMENTER,
    Kind,
    auto_class,
    configuration,
    is_pretrained,
    set_channels,
    stored_configuration,
)
from kdcache.models.transformers_weights import names_in_files, with_weights
from kdcache.models.weight_formats import some_names

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def build_classifier(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return an image classifier, with the mean, std and input size of its image processor.

    Raises:
        UsageError: an option that its configuration does not have, or of a wrong value.
        ModelError: transformers is not installed; the repository, its configuration or its weights
            cannot be had; it is another kind of model, or has no trained head where it must.
    """
    module, config, views = _built(spec, classes, channels, CLASSIFIER)
    size = getattr(config, "image_size", None)
    if "image_size" not in spec.options and views is not None and views.size is not None:
        size = views.size
    return module, {**_normalisation(views), "input_size": size}


def build_segmenter(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a model of semantic segmentation, with the mean and std of its image processor; the
    size is the recipe's.

    Raises:
        KdcacheError: as `build_classifier`.
    """
    module, _, views = _built(spec, classes, channels, SEGMENTER)
    return module, _normalisation(views)


def check(spec: Spec) -> None:
    """Check what can be known without the network, and without importing transformers."""
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"model {spec} needs transformers; pip install 'kdcache[hub]'")
    for option in spec.options:
        if option in REFUSED_OPTIONS:
            reason = REFUSED_OPTIONS[option]
            raise UsageError(f"model {spec}: option {option} is not taken: {reason}")
    folder = _local_folder(spec)
    if folder is None:
        return
    if "revision" in spec.options:
        raise UsageError(f"model {spec}: a folder has no revisions; leave revision out")
    if not (folder / CONFIG).is_file():
        file_names = sorted([path.name for path in folder.iterdir()])
        content = some_names(file_names) or "nothing"
        way_out = "name a folder that save_pretrained wrote"
        raise ModelError(f"model {spec}: folder {folder} has no {CONFIG}, but {content}; {way_out}")


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
        way_out = f"give a folder with {CONFIG}, or a repository of the hub as OWNER/NAME"
        raise ModelError(f"model {spec}: there is no folder {brief(name)}; {way_out}")
    return None


def _built(
    spec: Spec, classes: int | None, channels: int, kind: Kind
) -> tuple[nn.Module, Any, ProcessedViews | None]:
    """Return a model as transformers has it, its configuration, and what its images are like; None
    if no image processor lies beside it."""
    check(spec)
    local_folder = _local_folder(spec)
    with _quiet():
        folder = local_folder or downloaded(spec, spec.options.get("revision"))
        stored = stored_configuration(spec, folder)
        auto = auto_class(spec, stored, kind)
        config = configuration(spec, stored)
        if classes is not None and config.num_labels != classes:
            config.num_labels = classes
        set_channels(spec, config, channels)
        if is_pretrained(spec):
            if local_folder is None:
                download_weights(spec, folder.name)
            module = with_weights(spec, auto, config, folder, is_teacher=classes is None)
        else:
            with constructing(spec, "check its configuration and its options"):
                module = auto.from_config(config)
        views = processed_views(folder, channels)
    if views is not None and views.is_bgr:
        module.register_forward_pre_hook(_reverse_channels)
    module.other_names = names_in_files(module)
    return module.train(), config, views


def _normalisation(views: ProcessedViews | None) -> dict[str, Any]:
    if views is None:
        return {"mean": None, "std": None}
    return {"mean": views.mean, "std": views.std}


def _reverse_channels(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = arguments
    return images.flip(1), *others


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers logs: what matters is raised or said."""
    import transformers  # noqa: PLC0415

    library = transformers.utils.logging
    library_level = library.get_verbosity()
    has_bars = library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(library_level)
        if has_bars:
            library.enable_progress_bar()
