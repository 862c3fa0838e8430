"""In which settings two configurations differ."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from kdcache.errors import UsageError
from kdcache.runtime.contrast import contrasted


def config_differences(
    old: Any,
    new: Any,
    *,
    free: Sequence[str],
    meanings: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> list[str]:
    """Return one line per dotted key in which two configurations differ, see `differing_values`."""
    lines: list[str] = []
    for key, (value, other) in differing_values(old, new, free=free, meanings=meanings).items():
        old_text, new_text = _contrasted_values(value, other)
        lines.append(f"{key}: {old_text} there, {new_text} now")
    return lines


def _contrasted_values(value: Any, other: Any) -> tuple[str, str]:
    """Return two values as they are shown; of texts the quotes stand around what is cut."""
    if isinstance(value, str) and isinstance(other, str):
        text, other_text = contrasted(value, other)
        return repr(text), repr(other_text)
    return contrasted(repr(value), repr(other))


def differing_values(
    old: Any,
    new: Any,
    *,
    free: Sequence[str],
    meanings: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each dotted key in which two configurations differ.

    Args:
        old: the one that is there.
        new: the one of now.
        free: keys and tables that may differ.
        meanings: by key, what gives the meaning of a value; meanings are compared. Where it raises
            a UsageError, the values differ.
    """
    old_values = flat_settings(dataclasses.asdict(old))
    new_values = flat_settings(dataclasses.asdict(new))
    tables = tuple(f"{table}." for table in free)
    differing: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old_values, *new_values]):
        if key in free or key.startswith(tables):
            continue
        value = old_values.get(key)
        other = new_values.get(key)
        if value != other and not _mean_the_same(value, other, meanings.get(key)):
            differing[key] = (value, other)
    return differing


def _mean_the_same(value: Any, other: Any, meaning: Callable[[Any], Any] | None) -> bool:
    if meaning is None or value is None or other is None:
        return False
    try:
        return bool(meaning(value) == meaning(other))
    except UsageError:
        return False


def flat_settings(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
