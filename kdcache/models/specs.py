"""What a model's spec says, but for what is the model's constructor's: options of kdcache's own,
and the file of weights."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.config.user_functions import names_parameter, require_module
from kdcache.errors import ModelError, UsageError
from kdcache.models.own import check_own
from kdcache.models.preprocessing import PREPROCESSING
from kdcache.models.registry import FAMILIES
from kdcache.models.run_folders import model_spec
from kdcache.models.weight_formats import check_weight_file

OWN_OPTIONS = frozenset((*PREPROCESSING, "head", "weights", "weights_backbone", "weights_key"))
"""Options of a model's spec that are kdcache's, not those of the model's constructor."""

_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


def check_model(text: str, *, asks_library: bool = True, is_trained: bool = False) -> None:
    """Check what a model's spec names, without making a model: it, and its file of weights.

    Args:
        text: the spec, or the folder of a run.
        asks_library: whether the library is asked for a model of that name, where its sources are
            only read otherwise, or the user's module for the function and its options: they are
            imported for it.
        is_trained: whether it must have trained weights, as a teacher must.

    Raises:
        UsageError: an unknown model; of the user's own functions also an unknown option.
        ModelError: there is no such file of weights, or it is something else, or what must
            be trained has fresh weights.
    """
    spec = parse_spec(model_spec(text))
    require_options(spec)
    options = dict(spec.options)
    take_preprocessing(options)
    files = take_weights(spec, options)
    for path in files:
        check_weight_file(path)
    bare = Spec(spec.name, spec.arg, options)
    family = FAMILIES.get(spec.name)
    if family is not None:
        if family.check_name is not None:
            family.check_name(bare)
        if asks_library:
            family.check(bare)
    elif asks_library:
        check_own(bare)
    else:
        require_module(bare, "model", FAMILIES, error=ModelError)
    if is_trained:  # last: what is no model has no weights either
        require_trained(spec, options, files)


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


@dataclass(frozen=True)
class WeightFiles:
    """The files of weights that a spec names."""

    whole: Path | None = None
    """Of the whole model."""
    key: str | None = None
    """The part of that file that is taken."""
    has_new_head: bool = False
    """Whether what depends on the classes is drawn anew."""
    backbone: Path | None = None
    """Of the backbone: a classifier's."""

    def __iter__(self) -> Iterator[Path]:
        """Yield the files."""
        for path in (self.whole, self.backbone):
            if path is not None:
                yield path


def take_weights(spec: Spec, options: dict[str, Any]) -> WeightFiles:
    """Take the files of weights, and what is said of them, out of a model's options.

    Raises:
        UsageError: something is said of a file that is not named.
        ModelError: an address in the place of a file.
    """
    key = options.pop("weights_key", None)
    head = None
    if "head" in options and (spec.name in FAMILIES or not _takes(spec, "head")):
        head = options.pop("head")
    backbone = _take_file(spec, options, "weights_backbone")
    whole = _take_file(spec, options, "weights")
    if head not in (None, "new"):
        raise UsageError(
            f"model {str(spec)!r}: head is {head!r}; write head=new, which draws anew what depends"
            " on the classes"
        )
    if head and whole is None and not has_named_weights(spec, options):
        raise UsageError(
            f"model {str(spec)!r}: head=new is about weights, and there are none; give"
            " weights=FILE, too"
        )
    if key is not None and whole is None:
        raise UsageError(
            f"model {str(spec)!r}: weights_key names a part of a file of weights; give"
            " weights=FILE, too"
        )
    if whole is not None and backbone is not None:
        raise UsageError(
            f"model {str(spec)!r}: weights and weights_backbone are both files; the first has the"
            " backbone too"
        )
    return WeightFiles(
        whole, None if key is None else str(key), has_new_head=head == "new", backbone=backbone
    )


def has_named_weights(spec: Spec, options: dict[str, Any]) -> bool:
    """Return whether a library brings the model's weights, not a user's own function."""
    family = FAMILIES.get(spec.name)
    if family is None:
        return False
    is_pretrained = options.get("pretrained", family.is_pretrained)
    return bool(is_pretrained or options.get("weights"))


def require_trained(spec: Spec, options: dict[str, Any], files: WeightFiles) -> None:
    """Raise a ModelError if what must be trained would have fresh weights; of the user's own
    functions nothing is known."""
    if files.has_new_head:
        raise ModelError(
            f"model {str(spec)!r} has a new head, which is not trained; leave out head"
        )
    if files.whole is not None or spec.name not in FAMILIES:
        return
    if not has_named_weights(spec, options):
        raise ModelError(
            f"model {str(spec)!r} has no weights; add weights=FILE or"
            f" {_of_library(spec)}, or give the folder of a run"
        )


def _of_library(spec: Spec) -> str:
    """Return the option that takes the weights of a model's library."""
    if FAMILIES[spec.name].has_named_weights:
        return "weights=DEFAULT"
    return "pretrained=true"


def _take_file(spec: Spec, options: dict[str, Any], name: str) -> Path | None:
    """Take a file of weights out of a model's options; None if there is none of that name, or
    something else."""
    if not _names_file(spec, name, options.get(name)):
        return None
    text = str(options.pop(name))
    if "://" in text:
        raise ModelError(f"{name} {text} are an address; download the file, give {name}=FILE")
    return Path(text)


def _names_file(spec: Spec, name: str, value: Any) -> bool:
    """Return whether an option is a file, and no name that torchvision or the user knows."""
    if value is None:
        return False
    family = FAMILIES.get(spec.name)
    if value == "" or (family is not None and not isinstance(value, str)):
        raise UsageError(f"model {str(spec)!r}: {name} is {value!r}; write {name}=FILE")
    if family is not None and not family.has_named_weights:
        return True
    if not isinstance(value, str):
        return False
    # any text: of a link that leads nowhere, too
    exists = os.path.lexists(value)
    if exists or "/" in value or value.endswith(_WEIGHT_FILES):
        return True
    # a function may know names, if it says so: one with **options takes anything
    return family is None and not _takes(spec, name)


def _takes(spec: Spec, name: str) -> bool:
    """Return whether a function of the user's has a parameter of that name."""
    return names_parameter(spec, name, "model", FAMILIES, error=ModelError)
