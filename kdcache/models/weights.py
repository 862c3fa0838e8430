"""Weights from a file into a model: which part of the file, under which names, what does not fit.

A checkpoint may hold several states (`state_dict` beside `state_dict_ema`), and training frameworks
put words before the names of a state (`module.`, `_orig_mod.`, `model.`). The part that has all of
the model's names is taken. Of several that have it is the model's own, not an average, which is
told, or the part that `weights_key` names.
"""

import difflib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError, brief
from kdcache.models.weight_formats import read_weight_file, some_names
from kdcache.models.weight_record import require_recorded
from kdcache.runtime.console import say
from kdcache.runtime.user_code import exception_text

State = Mapping[str, Tensor]

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers of single layers put into names, anywhere."""
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
_PREFERRED = ("state_dict", "model", "model_state_dict", "student", "net", "module")
"""Of several parts that fit, the one that is called so is taken, in this order."""
_DEEPEST = 4
_MOST_PARTS = 64
_MOST_MAPPINGS = 4096
"""Mappings of a file that are looked at."""
_PROBES = 8
"""Names of the model that are looked for in a file, to find what stands before them there."""


@dataclass(frozen=True)
class _Part:
    """A state that a file holds, or those of its tensors whose names begin alike."""

    name: str
    """Of the state in the file, and how its names begin; empty for the whole file."""
    prefix: str
    tensors: State
    """Without the prefix."""
    others: Sequence[str]
    """Names of the state that do not begin so."""
    own: State
    """The model's."""

    @cached_property
    def missing(self) -> list[str]:
        return [name for name in self.own if name not in self.tensors]

    @cached_property
    def unknown(self) -> list[str]:
        return [name for name in self.tensors if name not in self.own]

    @cached_property
    def reshaped(self) -> list[str]:
        shared = [name for name in self.own if name in self.tensors]
        return [name for name in shared if not _have_one_shape(self.tensors[name], self.own[name])]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unknown or self.reshaped)

    @property
    def distance(self) -> tuple[Any, ...]:
        """From what is wanted: parts are ordered by it."""
        last = len(_PREFERRED)
        words = self.name.split(".")
        ranks = [_PREFERRED.index(word) if word in _PREFERRED else last for word in words]
        return len(self.missing), len(self.reshaped), len(self.unknown), ranks


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    key: str | None,
    spec: Spec,
    classes: int,
    is_teacher: bool,
) -> None:
    """Load a file of weights into a model.

    Args:
        module: the model; its attribute `not_loaded`, if any, has prefixes of what is left out,
            and `other_names` gives by the names that files may have those of the model.
        path: of the file.
        key: the part of the file that is taken, where it is not the one that fits best.
        spec: of the model.
        classes: that the model has.
        is_teacher: whether the model may have other classes than the data.

    Raises:
        ModelError: a file that cannot be read, is something else, does not fit the model, or was
            trained as another one.
        UsageError: a key that the file does not have.
    """
    held, metadata = read_weight_file(path)
    require_recorded(metadata, spec, path)
    if not isinstance(held, Mapping):
        kind = type(held).__name__
        raise ModelError(f"weights file {path} holds a {kind}, not a state_dict; save a state_dict")
    parts = _parts(held, module)
    if not parts or len(parts[0].missing) == len(parts[0].own):
        raise ModelError(f"weights file {path} holds {_other_content(held, parts)}")
    if key is not None:
        parts = _called(parts, key, path)
    part = parts[0]
    _require_plain(path, part)
    if not part.fits:
        raise ModelError(f"weights file {path} {_misfit(part, classes, is_teacher=is_teacher)}")
    _require_numbers(path, part)
    if part.name != key:
        _tell(path, part, [other.name for other in parts[1:] if other.fits])
    try:
        module.load_state_dict(dict(part.tensors))
    except Exception as error:
        reason = exception_text(error)
        raise ModelError(f"weights file {path} cannot be put into the model: {reason}") from error


def classes_advice(classes: int) -> str:
    """Return what to do with a teacher of so many classes, where the data has others."""
    return (
        f"add --teacher-classes {classes} to the dump (a student then needs a map of classes), or "
        "take a teacher of the data's classes"
    )


def _parts(held: Mapping[Any, Any], module: nn.Module) -> list[_Part]:
    """Return the states in a file, under each prefix that fits; what fits best comes first."""
    own = _own_state(module)
    left_out: tuple[str, ...] = getattr(module, "not_loaded", ())
    other_names: Mapping[str, str] = getattr(module, "other_names", {})
    parts: list[_Part] = []
    for name, state in _states(held):
        plain = _renamed(_unwrapped(state, own), other_names)
        for prefix in _prefixes(plain, own):
            names = [one for one in plain if one.startswith(prefix)]
            tensors = {one.removeprefix(prefix): plain[one] for one in names}
            part = _Part(
                name=".".join(filter(None, [name, prefix.removesuffix(".")])),
                prefix=prefix,
                tensors={one: tensors[one] for one in tensors if not one.startswith(left_out)},
                others=[one for one in plain if not one.startswith(prefix)],
                own=own,
            )
            parts.append(part)
    return sorted(parts, key=lambda part: part.distance)


def _own_state(module: nn.Module) -> State:
    """Return a model's state.

    Raises:
        ModelError: some of it has no shape yet, or no memory.
    """
    state: State = module.state_dict()
    for name, tensor in state.items():
        if is_lazy(tensor):
            way_out = "run a batch through the model in the function that builds it"
            raise ModelError(f"{name} of the model has no shape, and takes no weights; {way_out}")
        if tensor.is_meta:
            way_out = "build it on the CPU: to_empty(device='cpu')"
            raise ModelError(
                f"{name} of the model is on the meta device, without memory; {way_out}"
            )
    return state


def _states(held: Mapping[Any, Any]) -> list[tuple[str, State]]:
    """Return what may be a model's state in a file, by its dotted name there."""
    found: list[tuple[str, State]] = []
    states: dict[int, State] = {}  # by id: a file may hold one mapping often, and also itself
    waiting: deque[tuple[tuple[str, ...], Mapping[Any, Any]]] = deque([((), held)])
    for _ in range(_MOST_MAPPINGS):
        if not waiting or len(found) >= _MOST_PARTS:
            break
        path, mapping = waiting.popleft()
        if id(mapping) not in states:
            named = {key: value for key, value in mapping.items() if isinstance(key, str)}
            inner = {key: value for key, value in named.items() if isinstance(value, Mapping)}
            states[id(mapping)] = {
                key: value for key, value in named.items() if isinstance(value, Tensor)
            }
            if len(path) < _DEEPEST:
                waiting.extend(
                    [((*path, key), value) for key, value in inner.items()][:_MOST_PARTS]
                )
        state = states[id(mapping)]
        if state:
            found.append((".".join(path), state))
    return found


def _unwrapped(state: State, own: State) -> State:
    """Return a state without what wrappers put into names, unless the model's have it too."""
    wrappers = [one for one in _WRAPPERS if not any(one in name for name in own)]
    plain = {}
    for wrapped, tensor in state.items():
        name = wrapped
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        plain[name] = tensor
    return plain


def _renamed(state: State, other_names: Mapping[str, str]) -> State:
    """Return a state with the model's own names in the place of others, whatever stands before
    them."""
    if not other_names:
        return state
    renamed = {}
    for name, tensor in state.items():
        words = name.split(".")
        ends = [".".join(words[start:]) for start in range(len(words))]
        end = next((end for end in ends if end in other_names), "")
        own_end = other_names.get(end, "")
        renamed[name.removesuffix(end) + own_end] = tensor
    return renamed


def _prefixes(state: State, own: State) -> list[str]:
    """Return what stands before the model's names in a state: nothing, or words with dots."""
    probes = list(own)[:: max(len(own) // _PROBES, 1)]
    found: Counter[str] = Counter()
    for name in state:
        for probe in probes:
            prefix = name.removesuffix(probe)
            if prefix != name and prefix.endswith("."):
                found[prefix] += 1
    return ["", *(prefix for prefix, _ in found.most_common(_MOST_PARTS))]


def _called(parts: Sequence[_Part], key: str, path: Path) -> list[_Part]:
    """Return the parts that are called `key`, or have it in their names; the best comes first.

    Raises:
        UsageError: there is none.
    """
    found = [part for part in parts if f".{key}." in f".{part.name}."]
    if not found:
        names = list(dict.fromkeys(part.name for part in parts if part.name))
        there = some_names(names) or "one part only, which has no name"
        raise UsageError(f"weights_key is {key!r}; weights file {path} has {there}")
    return sorted(found, key=lambda part: (not part.fits, part.name != key))


def _tell(path: Path, part: _Part, others: Sequence[str]) -> None:
    """Say which part was taken where another would do too, or where some of it was left out."""
    begins = f"{brief(part.prefix)}*"
    is_usual = all(word in _USUAL for word in part.prefix.split(".")[:-1])
    if others:
        taken = brief(part.name) or "what lies at the top"
        other = brief(others[0])
        also = f"it also has {some_names(others)}; weights_key={other} would take that"
        say(f"note: of weights file {path} the part {taken} is taken; {also}")
    elif part.others:
        left = f"{len(part.others)} others are left out: {some_names(part.others)}"
        say(f"note: of weights file {path} the tensors {begins} are taken; {left}")
    elif not is_usual:
        say(f"note: of weights file {path} the tensors {begins} are taken")


def _other_content(held: Mapping[Any, Any], parts: Sequence[_Part]) -> str:
    """Return what a file holds that has none of the model's tensors, with the way out."""
    keys = some_names([str(key) for key in held])
    if any("optim" in str(key) or key == "param_groups" for key in held):
        return f"the state of an optimiser, not of the model ({keys}); name the model's file"
    if not parts:
        return f"no tensors with names ({keys or 'it is empty'}); save the model's state_dict"
    part = max(parts, key=lambda part: len(part.tensors))
    theirs = some_names(list(part.tensors))
    own = some_names(list(part.own))
    other = "these are weights of another architecture"
    return f"none of the model's tensors: {theirs} in the file, {own} in the model; {other}"


def _misfit(part: _Part, classes: int, *, is_teacher: bool) -> str:
    """Return what does not fit, first what explains most."""
    of_part = f"(part {brief(part.name)}) " if part.name else ""
    if theirs := _other_classes(part, classes):
        anew = f"take weights of {classes}, or leave weights out: the student then starts anew"
        way_out = classes_advice(theirs) if is_teacher else anew
        return f"{of_part}has {theirs} classes, and {classes} are asked for: {way_out}"
    if theirs := _other_channels(part):
        mode = "RGB" if theirs == 3 else "L"
        return f'{of_part}is for images of {theirs} channels; use a recipe with mode = "{mode}"'
    fitting = len(part.own) - len(part.missing) - len(part.reshaped)
    return (
        f"{of_part}does not fit the model for {classes} classes: {_first_difference(part)} "
        f"({fitting} of the model's {len(part.own)} tensors fit); check its name and its options"
    )


def _first_difference(part: _Part) -> str:
    """Return a tensor that does not fit, in the file's own words."""
    if part.reshaped:
        name = part.reshaped[0]
        theirs = tuple(part.tensors[name].shape)
        own = tuple(part.own[name].shape)
        return f"{brief(part.prefix + name)} is {theirs} in the file, {own} in the model"
    if part.missing:
        name = part.missing[0]
        return f"{brief(part.prefix + name)} is missing in the file{_called_instead(name, part)}"
    return f"{brief(part.prefix + part.unknown[0])} is unknown to the model"


def _other_classes(part: _Part, classes: int) -> int | None:
    """Return how many classes a file's last layers have, if that is all that does not fit."""
    if part.missing or part.unknown:
        return None
    found: set[int] = set()
    for name in part.reshaped:
        theirs = part.tensors[name].shape
        own = part.own[name].shape
        if own[:1] != (classes,) or own[1:] != theirs[1:]:
            return None
        found.add(theirs[0])
    return found.pop() if len(found) == 1 else None


def _other_channels(part: _Part) -> int | None:
    """Return the channels of images that a file is for, if only its first layer differs so."""
    if len(part.reshaped) != 1 or part.missing or part.unknown:
        return None
    (name,) = part.reshaped
    theirs = list(part.tensors[name].shape)
    own = list(part.own[name].shape)
    is_layer = len(theirs) == len(own) == 4
    if not is_layer or {theirs[1], own[1]} != {1, 3} or theirs != [own[0], theirs[1], *own[2:]]:
        return None
    return theirs[1]


def _called_instead(name: str, part: _Part) -> str:
    """Return what a tensor that is missing may be called in the file."""
    end = name.rpartition(".")[2]
    others = [other for other in [*part.unknown, *part.others] if other.endswith(end)]
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.4)
    return f", which has {brief(near[0])}" if near else ""


def _have_one_shape(tensor: Tensor, own: Tensor) -> bool:
    return not tensor.is_nested and tensor.shape == own.shape


def _require_plain(path: Path, part: _Part) -> None:
    """Raise a ModelError if a weight is of a kind that no model can take, which it says."""
    for name, tensor in part.tensors.items():
        kind = _odd_kind(tensor, part.own.get(name, tensor))
        if kind is not None:
            raise ModelError(f"weights file {path} has {brief(part.prefix + name)} as {kind}")


def _odd_kind(tensor: Tensor, own: Tensor) -> str | None:
    """Return of what kind a weight is, with the way out; None if it is a plain one.

    Args:
        tensor: the weight.
        own: the model's tensor of that name.
    """
    if tensor.is_nested:
        return "a nested tensor; save one tensor for each of its parts"
    if tensor.is_meta:
        return "a tensor of the meta device, without values; save a model that has its weights"
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return f"a sparse tensor ({kind}); save its to_dense()"
    if tensor.is_complex() and not own.is_complex():
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"complex numbers ({kind}); take weights in floats"
    return None


def _require_numbers(path: Path, part: _Part) -> None:
    """Raise a ModelError if a weight is NaN or an integer; some masks of attention are infinite."""
    for name, tensor in part.tensors.items():
        where = f"weights file {path} has"
        if part.own[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"{where} {kind} in {name}: it is quantised; take weights in floats")
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            way_out = "the training that wrote it has failed; take another file"
            raise ModelError(f"{where} NaN in {name}: {way_out}")
