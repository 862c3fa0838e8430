"""The gate of what users give: each argument of a function that programs call has a type that the
signature says, and no text is one that `require_text` refuses.

A flag of a command is text. An argument may be anything, and a wrong one would be told from deep
inside, or never.
"""

import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from kdcache.config.texts import require_text
from kdcache.errors import UsageError, quoted

P = ParamSpec("P")
T = TypeVar("T")
_WORDS = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "truths"),
    Path: ("a Path", "Paths"),
    np.ndarray: ("an array", "arrays"),
}
"""What types are called, one and several."""


def checked_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises a UsageError where an argument is not what its annotation says.

    Integers pass as floats, arrays and ranges as sequences. Numbers must be finite. Texts and paths
    pass as `require_text` has it.
    """

    @cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(function)

    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, value in _bound(signature, args, kwargs).items():
            hint = hints().get(name, Any)
            if not _fits(value, hint):
                raise UsageError(f"{name} is {quoted(value)}; it must be {_words_of(hint)}")
            if isinstance(value, str | Path):
                require_text(str(value), name)
        return function(*args, **kwargs)

    return call


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name; none where they do not fit, which Python tells when
    the call is made, with the name of the function."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError:
        return {}


def given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are given; of the others, which are None, the defaults of what is
    built from them count."""
    return {name: value for name, value in arguments.items() if value is not None}


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple and Ellipsis not in parts:
        has_length = isinstance(value, tuple | list) and len(value) == len(parts)
        return has_length and all(map(_fits, value, parts))
    if origin in (tuple, Sequence):
        return _is_list(value) and all(_fits(item, parts[0]) for item in value)
    return _is_single(value, origin or hint)


def _is_list(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_single(value: Any, kind: type) -> bool:
    # True is an int to Python, and no number of anything
    if kind in (int, float) and isinstance(value, bool | np.bool_):
        return False
    if kind is int:
        return isinstance(value, int | np.integer)
    if kind is float:
        is_number = isinstance(value, int | float | np.integer | np.floating)
        return is_number and math.isfinite(value)
    return isinstance(value, kind)


def _words_of(hint: Any, *, is_many: bool = False) -> str:
    """Return in words what an annotation allows; None, which means not given, is left out."""
    origin = typing.get_origin(hint)
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if origin in (typing.Union, types.UnionType):
        texts = [_words_of(part, is_many=is_many) for part in parts]
        return " or ".join(dict.fromkeys(texts))
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple and Ellipsis not in parts:
        return f"{len(parts)} {_words_of(parts[0], is_many=True)}"
    if origin in (tuple, Sequence):
        return f"a list of {_words_of(parts[0], is_many=True)}"
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind][is_many]
    # where users import it from, not where it is defined
    package = "kdcache"
    if kind.__module__.startswith("torch.nn."):
        package = "torch.nn"
    return f"{package}.{kind.__name__}"
