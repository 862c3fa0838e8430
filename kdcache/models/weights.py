"""Weights from a file into a model: which part of the file, under which names, what does not fit.

A checkpoint may hold several states (`state_dict` beside `state_dict_ema`), and training frameworks
put words before the names of a state (`module.`, `_orig_mod.`, `model.`). The part that has all of
the model's names is taken. Of several that have it is the model's own, not an average, which is
told, or the part that `weights_key` names.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError, brief
from kdcache.models.weight_content import read_weight_file
from kdcache.models.weight_formats import some_names
from kdcache.models.weight_misfit import misfit, other_content
from kdcache.models.weight_parts import Part, parts_of
from kdcache.models.weight_record import require_recorded
from kdcache.runtime.console import say
from kdcache.runtime.user_code import exception_text

_USUAL = frozenset(
    (
        "_forward_module",
        "_model",
        "backbone",
        "model",
        "module",
        "net",
        "network",
        "student",
    )
)
"""Words before all names of a state that are taken off without saying so."""


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    key: str | None,
    spec: Spec,
    classes: int,
    advice: str | None = None,
    drawn_names: Collection[str] = (),
    is_backbone: bool = False,
) -> None:
    """Load a file of weights into a model.

    Args:
        module: the model; its attribute `not_loaded`, if any, has prefixes of what is left out,
            and `other_names` gives by the names that files may have those of the model.
        path: of the file.
        key: the part of the file that is taken, where it is not the one that fits best.
        spec: of the model.
        classes: that the model has.
        advice: what to do with a teacher of other classes, see `TEACHER_ADVICE`; None of a student.
        drawn_names: of the model's tensors that stay as they are, drawn anew.
        is_backbone: whether the model is the backbone of another, and the file's classifier is left
            out.

    Raises:
        ModelError: a file that cannot be read, is something else, does not fit the model, or was
            trained as another one.
        UsageError: a key that the file does not have.
    """
    content, metadata = read_weight_file(path)
    if not is_backbone:
        require_recorded(metadata, spec, path)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ModelError(f"weights file {path} holds a {kind}, not a state_dict; save a state_dict")
    parts = parts_of(content, module, drawn_names=drawn_names, takes_some=is_backbone)
    if not parts or parts[0].is_foreign:
        raise ModelError(f"weights file {path} holds {other_content(content, parts)}")
    if key is not None:
        parts = _keyed_parts(parts, key, path)
    part = parts[0]
    _require_plain(path, part)
    if not part.fits:
        reason = misfit(part, classes, advice)
        raise ModelError(f"weights file {path} {reason}")
    _require_numbers(path, part)
    if part.name != key:
        _tell(path, part, _fitting_names(parts[1:]))
    taken = {name: part.tensors[name] for name in part.model_state}
    try:
        module.load_state_dict({**module.state_dict(), **taken})
    except Exception as error:
        reason = exception_text(error)
        raise ModelError(f"weights file {path} cannot be put into the model: {reason}") from error


def _keyed_parts(parts: Sequence[Part], key: str, path: Path) -> list[Part]:
    """Return the parts that are called `key`, or have it in their names; the best comes first.

    Raises:
        UsageError: there is none.
    """
    keyed_parts = [part for part in parts if f".{key}." in f".{part.name}."]
    if not keyed_parts:
        names = _distinct_names(parts)
        what = some_names(names) or "one part only, which has no name"
        raise UsageError(f"weights_key is {key!r}; weights file {path} has {what}")
    return sorted(keyed_parts, key=lambda part: (not part.fits, part.name != key))


def _distinct_names(parts: Sequence[Part]) -> list[str]:
    names = dict.fromkeys([part.name for part in parts])
    names.pop("", None)
    return list(names)


def _fitting_names(parts: Sequence[Part]) -> list[str]:
    return [part.name for part in parts if part.fits]


def _tell(path: Path, part: Part, fitting_names: Sequence[str]) -> None:
    """Say which part was taken where another would do too, or where some of it was left out."""
    lead = f"note: of weights file {path}"
    begins = f"{brief(part.prefix)}*"
    if fitting_names:
        name = brief(part.name) or "what lies at the top"
        choice = f"weights_key={brief(fitting_names[0])} would take that"
        say(f"{lead} the part {name} is taken; it also has {some_names(fitting_names)}; {choice}")
    elif part.outside_names or part.unknown_names:
        left_out = [*part.outside_names, *part.unknown_names]
        rest = f"{len(left_out)} others are left out: {some_names(left_out)}"
        taken = f"the tensors {begins} are taken" if part.prefix else "some tensors are taken"
        say(f"{lead} {taken}; {rest}")
    elif not _is_usual(part.prefix):
        say(f"{lead} the tensors {begins} are taken")


def _is_usual(prefix: str) -> bool:
    """Return whether all words before the names of a state are taken off without saying so."""
    words = prefix.split(".")[:-1]
    return _USUAL.issuperset(words)


def _require_plain(path: Path, part: Part) -> None:
    """Raise a ModelError if a weight is of a kind that no model can take, which it says."""
    for name, tensor in part.tensors.items():
        kind = _odd_kind(tensor, part.model_state.get(name, tensor))
        if kind is not None:
            file_name = brief(part.prefix + name)
            raise ModelError(f"weights file {path} has {file_name} as {kind}")


def _odd_kind(tensor: Tensor, model_tensor: Tensor) -> str | None:
    """Return of what kind a weight is, with the way out; None if it is a plain one.

    Args:
        tensor: the weight.
        model_tensor: the model's tensor of that name.
    """
    if tensor.is_nested:
        return "a nested tensor; save one tensor for each of its parts"
    if tensor.is_meta:
        return "a tensor of the meta device, without values; save a model that has its weights"
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return f"a sparse tensor ({kind}); save its to_dense()"
    if tensor.is_complex() and not model_tensor.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"complex numbers ({kind}); take weights in floats"
    return None


def _require_numbers(path: Path, part: Part) -> None:
    """Raise a ModelError if a weight is NaN or an integer; some masks of attention are infinite."""
    where = f"weights file {path} has"
    for name, model_tensor in part.model_state.items():
        tensor = part.tensors[name]
        is_float = tensor.is_floating_point()
        if model_tensor.is_floating_point() and not is_float:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"{where} {kind} in {name}: it is quantised; take weights in floats")
        if is_float and bool(torch.isnan(tensor).any()):
            way_out = "the training that wrote it has failed; take another file"
            raise ModelError(f"{where} NaN in {name}: {way_out}")
