"""Which options the models of a library have, by the signatures of their classes."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

from kdcache.config.names import choose
from kdcache.config.spec import Spec

_UNEXPECTED = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")
_WRITABLE = (bool, int, float, str, tuple, list)
_PARTS = ("layer", "block", "args", "fn", "cfg", "configs")
"""What names of parameters end with that are parts of a model; a spec cannot say one that is None
by default."""
_OF_CALLERS = frozenset(("num_classes", "in_chans", "out_indices", "device", "dtype"))
"""Parameters that kdcache itself gives, or that are of no model."""


def numeric_parameters(cls: type) -> set[str]:
    """Return the parameters of a class whose values are numbers or switches: the others are parts
    of a model, which no spec can say."""
    return {entry.name for entry in _parameters(cls) if isinstance(entry.default, int | float)}


def writable_parameters(cls: type) -> set[str]:
    """Return the parameters of a class whose defaults a spec could say."""
    names = set()
    for entry in _parameters(cls):
        is_open = entry.default is None and not entry.name.endswith(_PARTS)
        if is_open or isinstance(entry.default, _WRITABLE):
            names.add(entry.name)
    return names - _OF_CALLERS


def takes_any(cls: type) -> bool:
    """Return whether a class takes options of any name."""
    return any(entry.kind is entry.VAR_KEYWORD for entry in _parameters(cls))


def require_no_other(spec: Spec, error: Exception, maker: Any, known: frozenset[str]) -> None:
    """Raise a UsageError that names the nearest option, where an error says that a class of the
    library does not know one of those in a spec.

    Args:
        spec: of the model.
        error: that the library raised.
        maker: the library's function that makes the model, in whose module its classes are; None
            where that is not known.
        known: options that are not of the model's class.
    """
    match = _UNEXPECTED.search(str(error))
    if match is None or match[2] not in spec.options:
        return
    module = sys.modules.get(getattr(maker, "__module__", None) or "")
    if module is None:
        return
    names = set(known)
    for cls in _classes_of_options(module, match[1]):
        names |= writable_parameters(cls)
    choose(match[2], names, f"option of model {spec.name}:{spec.arg},")


def _classes_of_options(module: ModuleType, name: str) -> Iterator[type]:
    """Yield the class of this name that a module knows, and of a configuration also the models that
    it is of."""
    cls = getattr(module, name, None)
    if not inspect.isclass(cls):
        return
    yield cls
    if not dataclasses.is_dataclass(cls):
        return
    home = sys.modules[cls.__module__]
    for other in vars(home).values():
        is_model = inspect.isclass(other) and issubclass(other, nn.Module)
        if is_model and any(entry.name == "cfg" for entry in _parameters(other)):
            yield other


def _parameters(cls: type) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return []
