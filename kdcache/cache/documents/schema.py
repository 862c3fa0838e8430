"""The forms of a document's values: a small language, in which `limits` writes down what manifests
and commits may say.

A form is a type, a range of integers, a pattern of text, `None`, or one of the classes here. A
tuple is a list of so many values, each with a form of its own; a frozenset means any of its forms.
A dict is an object: its keys are names, of which those that end in ? may be absent. Other names may
be there too, since a newer kdcache may have added them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.errors import quoted

_MOST_NAME = 100
"""Characters of a key."""


@dataclass(frozen=True)
class Text:
    """Text of a bounded length."""

    most: int


@dataclass(frozen=True)
class Number:
    """An integer or a float within bounds."""

    low: float
    high: float


@dataclass(frozen=True)
class Items:
    """A list of at most so many values of one form."""

    form: Any
    most: int


@dataclass(frozen=True)
class Table:
    """An object with at most so many keys, which are any text, or match a pattern, and values of
    one form."""

    form: Any
    most: int
    key: "re.Pattern[str] | None" = None


_KINDS = {
    Items: "a list",
    Text: "text",
    Table: "an object",
    dict: "an object",
    bool: "true or false",
}
"""What messages call the forms of a class, and classes that are forms."""


def require(value: Any, form: Any, where: str) -> None:
    """Check that a value has a form.

    Raises:
        ValueError: it has not; the message begins with `where`.
    """
    if isinstance(form, dict) and isinstance(value, Mapping):
        _require_names(value, form, where)
    elif isinstance(form, Table) and isinstance(value, Mapping):
        _require_table(value, form, where)
    elif isinstance(form, Items) and isinstance(value, list):
        _require_most(len(value), form.most, where, "values")
        for item in value:
            require(item, form.form, where)
    elif isinstance(form, tuple) and isinstance(value, list) and len(value) == len(form):
        for item, inner in zip(value, form, strict=True):
            require(item, inner, where)
    elif isinstance(form, Text) and isinstance(value, str):
        _require_most(len(value), form.most, where, "characters")
    elif not _is_of(value, form):
        name = where or "it"
        raise ValueError(f"{name} is {quoted(value)}; it must be {_words(form)}")


def _require_names(value: Mapping[str, Any], form: dict[str, Any], where: str) -> None:
    for key, inner in form.items():
        name = key.removesuffix("?")
        dotted = f"{where}.{name}".lstrip(".")
        if name in value:
            require(value[name], inner, dotted)
        elif name == key:
            raise ValueError(f"it has no {dotted}")


def _require_table(value: Mapping[str, Any], form: Table, where: str) -> None:
    _require_most(len(value), form.most, where, "keys")
    for name, item in value.items():
        _require_most(len(name), _MOST_NAME, f"a key of {where}", "characters")
        if form.key is not None:
            require(name, form.key, f"a key of {where}")
        require(item, form.form, f"{where}.{name[:40]}")


def _require_most(count: int, most: int, where: str, what: str) -> None:
    if count > most:
        raise ValueError(f"{where} has {count} {what}; it may have {most}")


def _is_of(value: Any, form: Any) -> bool:
    if isinstance(form, frozenset):
        return any(_fits(value, choice) for choice in form)
    return _is_single(value, form)


def _is_single(value: Any, form: Any) -> bool:
    # by type, not isinstance: True is an int, and no number of rows
    if isinstance(form, range):
        return type(value) is int and value in form
    if isinstance(form, Number):
        return type(value) in (int, float) and form.low <= value <= form.high
    if isinstance(form, re.Pattern):
        return isinstance(value, str) and form.fullmatch(value) is not None
    if isinstance(form, type):
        return type(value) is form
    return form is None and value is None


def _fits(value: Any, form: Any) -> bool:
    try:
        require(value, form, "")
    except ValueError:
        return False
    return True


def _words(form: Any) -> str:
    """Return what messages call a form."""
    if isinstance(form, range):
        return f"an integer from {form.start} to {form.stop - 1}"
    if isinstance(form, Number):
        return f"a number from {form.low:g} to {form.high:g}"
    if isinstance(form, re.Pattern):
        return f"text that matches {form.pattern}"
    if isinstance(form, tuple):
        return f"a list of {len(form)}"
    if isinstance(form, frozenset):
        return " or ".join(sorted(map(_words, form)))
    kind = form
    if not isinstance(form, type):
        kind = type(form)
    return _KINDS.get(kind, "null")
