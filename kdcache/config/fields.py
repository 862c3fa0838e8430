"""Values that users give, in the fields of dataclasses: their types are checked, and what is
missing."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kdcache.config.names import choose
from kdcache.errors import UsageError, quoted

T = TypeVar("T")
_MOST = 2**63
_TYPE_WORDS: dict[type, str] = {
    bool: "true or false",
    dict: "a table",
    float: "a number",
    int: "a whole number",
    str: "text",
    tuple: "a list, such as [3,4]",
}


def build(
    cls: type[T],
    values: Mapping[str, Any],
    where: str,
    *,
    called: Callable[[str], str] = str,
    way_out: str = "",
) -> T:
    """Return dataclass `cls` made from `values`, nested tables included, types checked.

    Args:
        cls: the dataclass.
        values: by field.
        where: they come from, for messages.
        called: gives what a user calls a field, for those that are missing.
        way_out: what the user can do about these, the end of the message.

    Raises:
        UsageError: an unknown key (the nearest is suggested), a missing one, a value of the wrong
            type, or a number anywhere in it that is not finite.
    """
    hints = typing.get_type_hints(cls)
    fields = _option_fields(cls)
    names = [field.name for field in fields]
    for key in values:
        choose(key, names, f"{where} key")
    missing = _missing_fields(fields, values)
    if missing:
        *others, last = [called(name) for name in missing]
        text = last
        if others:
            text = f"{', '.join(others)} and {last}"
        raise UsageError(f"{where} needs {text}{way_out}")
    for key, value in values.items():
        require_finite(value, f"{where} {key}")
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        arguments[key] = _typed(value, hints[key], f"{where} {key}")
    return cls(**arguments)


def _option_fields(cls: type) -> "list[dataclasses.Field[Any]]":
    """Return the fields of a dataclass that a spec may set."""
    return [field for field in dataclasses.fields(cls) if is_option(field)]


def _missing_fields(fields: "list[dataclasses.Field[Any]]", values: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that have neither a value nor a default."""
    names: list[str] = []
    for field in fields:
        lacks_value = field.default is dataclasses.MISSING and field.name not in values
        if lacks_value and field.default_factory is dataclasses.MISSING:
            names.append(field.name)
    return names


def require_finite(value: Any, where: str, rule: str = "a finite number") -> None:
    """Raise a UsageError if a number is infinite or NaN, also one inside tables and lists.

    Comparisons with NaN are false, so that checks of ranges would let it pass.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} is {value}; it must be {rule}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            require_finite(item, where)


def not_an_option(default: Any = None) -> Any:
    """Return a dataclass field that code sets, but no spec, configuration or manifest does."""
    return dataclasses.field(default=default, repr=False, compare=False, metadata={"option": False})


def is_option(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a spec may set the field."""
    return field.init and field.metadata.get("option", True) is True


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type `hint`; integers pass as floats, lists as tuples, tables
    as dataclasses."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _typed_as_one(value, args, where)
    if origin is typing.Literal:
        return choose(str(value), args, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(item, args[0], where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return _typed_as_table(value, typing.cast("type[Any]", hint), where)
    return _typed_as_plain(value, origin or hint, where)


def _typed_as_table(value: Any, cls: type, where: str) -> Any:
    if isinstance(value, Mapping):
        return build(cls, value, where)
    if isinstance(value, cls):
        return value
    first = _option_fields(cls)[0].name
    raise UsageError(f"{where} is {quoted(value)}, but has keys of its own; write {first}=...")


def _typed_as_plain(value: Any, kind: type, where: str) -> Any:
    if isinstance(value, bool):  # Python takes one for an integer
        if kind is not int and isinstance(value, kind):
            return value
    elif isinstance(value, int) and abs(value) >= _MOST and kind in (int, float):
        raise UsageError(f"{where} has {len(str(value))} digits; it must be a number below 2^63")
    elif kind is float and isinstance(value, int):
        return float(value)
    elif kind is str and isinstance(value, (int, float)):
        return str(value)
    elif isinstance(value, kind):
        return value
    text = quoted(value)
    if isinstance(value, bool):
        text = str(value).lower()  # as TOML has it
    raise UsageError(f"{where} is {text}; it must be {_TYPE_WORDS.get(kind, kind)}")


def _typed_as_one(value: Any, hints: Sequence[Any], where: str) -> Any:
    """Return `value` as one type of a union: lists and text as the one that takes them, all else as
    the first."""
    if value is None and type(None) in hints:
        return None
    first, *others = [hint for hint in hints if hint is not type(None)]
    kind: Any = None
    if isinstance(value, (list, tuple)):
        kind = tuple
    elif isinstance(value, str):
        kind = str
    for hint in others:
        if kind is not None and kind in (hint, typing.get_origin(hint)):
            return _typed(value, hint, where)
        if kind is str and typing.get_origin(hint) is typing.Literal:
            words = typing.get_args(hint)
            if value in words:
                return value
            choices = " or ".join([_TYPE_WORDS[first], *words])
            raise UsageError(f"{where} is {quoted(value)}; it must be {choices}")
    return _typed(value, first, where)
