"""What a model's spec says, but for what is the model's constructor's: options of kdcache's own,
and the file of weights."""

import os
from pathlib import Path
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.config.user_functions import names_parameter, require_module
from kdcache.errors import ModelError, UsageError
from kdcache.models.own import check_own
from kdcache.models.preprocessing import PREPROCESSING
from kdcache.models.registry import FAMILIES
from kdcache.models.weight_formats import check_weight_file

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


def check_model(text: str, *, asks_library: bool = True) -> None:
    """Check what a model's spec names, without making a model: it, and its file of weights.

    Args:
        text: the spec.
        asks_library: whether the library is asked for a model of that name, or the user's module
            for the function and its options: they are imported for it.

    Raises:
        UsageError: an unknown model; of the user's own functions also an unknown option.
        ModelError: there is no such file of weights, or it is something else.
    """
    spec = parse_spec(text)
    require_options(spec)
    options = dict(spec.options)
    take_preprocessing(options)
    path, _ = take_weights(spec, options)
    if path is not None:
        check_weight_file(path)
    bare = Spec(spec.name, spec.arg, options)
    family = FAMILIES.get(spec.name)
    if family is not None:
        if asks_library:
            family.check(bare)
    elif asks_library:
        check_own(bare)
    else:
        require_module(bare, "model", FAMILIES, error=ModelError)


def require_options(spec: Spec) -> None:
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


def take_preprocessing(options: dict[str, Any]) -> dict[str, Any]:
    """Take what says how images are prepared out of a model's options."""
    wishes = {}
    for key in PREPROCESSING:
        if key in options:
            wishes[key] = options.pop(key)
    return wishes


def take_weights(spec: Spec, options: dict[str, Any]) -> tuple[Path | None, str | None]:
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
