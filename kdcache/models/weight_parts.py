"""The states that a file of weights holds: under which names, and what of a model each of them has.

A checkpoint may hold several states (`state_dict` beside `state_dict_ema`), and training frameworks
put words before the names of a state (`module.`, `_orig_mod.`, `model.`).
"""

from collections import Counter, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcache.errors import ModelError

Content = Mapping[Any, Any]
"""Of a file: whatever was stored."""
State = Mapping[str, Tensor]

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers of single layers put into names, anywhere."""
_PREFERRED = ("state_dict", "model", "model_state_dict", "student", "net", "module")
"""Of several parts that fit, the one that is called so is taken, in this order."""
_DEEPEST = 4
_MOST_PARTS = 64
_MOST_MAPPINGS = 4096
"""Mappings of a file that are looked at."""
_PROBES = 8
"""Names of the model that are looked for in a file, to find what stands before them there."""


@dataclass(frozen=True)
class Part:
    """A state that a file holds, or those of its tensors whose names begin alike."""

    name: str
    """Of the state in the file, and how its names begin; empty for the whole file."""
    prefix: str
    tensors: State
    """Without the prefix."""
    outside_names: Sequence[str]
    """Names of the state that do not begin so."""
    model_state: State
    """Of the model, without what is drawn anew."""
    takes_some: bool = False
    """Whether it may have tensors that the model lacks: a backbone's file has a classifier."""

    @cached_property
    def missing_names(self) -> list[str]:
        """Names of the model's tensors that it lacks."""
        return _difference(self.model_state, self.tensors)

    @cached_property
    def unknown_names(self) -> list[str]:
        """Names of its tensors that the model lacks."""
        return _difference(self.tensors, self.model_state)

    @cached_property
    def reshaped_names(self) -> list[str]:
        """Names of tensors that have another shape in the model."""
        names = []
        for name, model_tensor in self.model_state.items():
            tensor = self.tensors.get(name)
            if tensor is not None and not _have_one_shape(tensor, model_tensor):
                names.append(name)
        return names

    @property
    def is_foreign(self) -> bool:
        """Whether it has none of the model's tensors."""
        return len(self.missing_names) == len(self.model_state)

    @property
    def fits(self) -> bool:
        """Whether it is a state of the model."""
        has_too_many = self.unknown_names and not self.takes_some
        return not (self.missing_names or has_too_many or self.reshaped_names)

    @property
    def distance(self) -> tuple[Any, ...]:
        """From a state of the model: parts are ordered by it."""
        num_missing = len(self.missing_names)
        num_reshaped = len(self.reshaped_names)
        num_unknown = len(self.unknown_names)
        ranks = [_rank(word) for word in self.name.split(".")]
        return num_missing, num_reshaped, num_unknown, ranks


def parts_of(
    content: Content,
    module: nn.Module,
    *,
    drawn_names: Container[str] = (),
    takes_some: bool = False,
) -> list[Part]:
    """Return the states in a file, under each prefix that fits; what fits best comes first.

    Args:
        content: of the file.
        module: the model; its attributes are those of `load_weights`.
        drawn_names: of the model's tensors that are drawn anew, whatever the file has.
        takes_some: whether a state may have tensors that the model lacks.

    Raises:
        ModelError: some of the model's state has no shape yet, or no memory.
    """
    model_state = {}
    for name, tensor in _state_of(module).items():
        if name not in drawn_names:
            model_state[name] = tensor
    not_loaded: tuple[str, ...] = getattr(module, "not_loaded", ())
    model_names: Mapping[str, str] = getattr(module, "other_names", {})
    parts: list[Part] = []
    for name, state in _named_states(content):
        plain = _renamed(_unwrapped(state, model_state), model_names)
        for prefix in _prefixes(plain, model_state):
            part = _part(name, prefix, plain, model_state, not_loaded)
            tensors = {
                name: tensor for name, tensor in part.tensors.items() if name not in drawn_names
            }
            parts.append(replace(part, tensors=tensors, takes_some=takes_some))
    return sorted(parts, key=lambda part: part.distance)


def _part(
    name: str, prefix: str, state: State, model_state: State, not_loaded: tuple[str, ...]
) -> Part:
    tensors = {}
    outside_names = []
    for whole_name, tensor in state.items():
        if not whole_name.startswith(prefix):
            outside_names.append(whole_name)
            continue
        tensor_name = whole_name.removeprefix(prefix)
        if not tensor_name.startswith(not_loaded):
            tensors[tensor_name] = tensor
    return Part(
        name=_joined_name(name, prefix),
        prefix=prefix,
        tensors=tensors,
        outside_names=outside_names,
        model_state=model_state,
    )


def _joined_name(state_name: str, prefix: str) -> str:
    words = prefix.removesuffix(".")
    if state_name and words:
        return f"{state_name}.{words}"
    return state_name or words


def _state_of(module: nn.Module) -> State:
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


def _named_states(content: Content) -> list[tuple[str, State]]:
    """Return what may be a model's state in a file, by its dotted name there."""
    named_states: list[tuple[str, State]] = []
    states: dict[int, State] = {}  # by id: a file may hold one mapping often, and also itself
    waiting: deque[tuple[tuple[str, ...], Content]] = deque([((), content)])
    for _ in range(_MOST_MAPPINGS):
        if not waiting or len(named_states) >= _MOST_PARTS:
            break
        path, mapping = waiting.popleft()
        if id(mapping) not in states:
            state, mappings = _tensors_and_mappings(mapping)
            states[id(mapping)] = state
            if len(path) < _DEEPEST:
                for key, inner in mappings[:_MOST_PARTS]:
                    waiting.append(((*path, key), inner))
        state = states[id(mapping)]
        if state:
            named_states.append((".".join(path), state))
    return named_states


def _tensors_and_mappings(mapping: Content) -> tuple[State, list[tuple[str, Content]]]:
    """Return the tensors and the mappings that a mapping holds by name."""
    tensors = {}
    mappings = []
    for key, value in mapping.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            tensors[key] = value
        if isinstance(value, Mapping):
            mappings.append((key, value))
    return tensors, mappings


def _unwrapped(state: State, model_state: State) -> State:
    """Return a state without what wrappers put into names, unless the model's have it too."""
    wrappers = [wrapper for wrapper in _WRAPPERS if not _occurs(wrapper, model_state)]
    plain = {}
    for wrapped_name, tensor in state.items():
        name = wrapped_name
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        plain[name] = tensor
    return plain


def _renamed(state: State, model_names: Mapping[str, str]) -> State:
    """Return a state with the model's own names in the place of others, whatever stands before
    them."""
    if not model_names:
        return state
    renamed = {}
    for name, tensor in state.items():
        renamed[_model_name(name, model_names)] = tensor
    return renamed


def _model_name(name: str, model_names: Mapping[str, str]) -> str:
    words = name.split(".")
    for start in range(len(words)):
        end = ".".join(words[start:])
        if end in model_names:
            return name.removesuffix(end) + model_names[end]
    return name


def _prefixes(state: State, model_state: State) -> list[str]:
    """Return what stands before the model's names in a state: nothing, or words with dots."""
    step = max(len(model_state) // _PROBES, 1)
    probes = list(model_state)[::step]
    counts: Counter[str] = Counter()
    for name in state:
        for probe in probes:
            prefix = name.removesuffix(probe)
            if prefix != name and prefix.endswith("."):
                counts[prefix] += 1
    prefixes = [""]
    for prefix, _ in counts.most_common(_MOST_PARTS):
        prefixes.append(prefix)
    return prefixes


def _difference(names: Iterable[str], others: Container[str]) -> list[str]:
    """Return those of some names that are not among others, in order."""
    return [name for name in names if name not in others]


def _occurs(word: str, names: Iterable[str]) -> bool:
    return any(word in name for name in names)


def _rank(word: str) -> int:
    if word in _PREFERRED:
        return _PREFERRED.index(word)
    return len(_PREFERRED)


def _have_one_shape(tensor: Tensor, model_tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.shape == model_tensor.shape
