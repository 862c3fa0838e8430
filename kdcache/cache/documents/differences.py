"""What differs between two manifests, in words: by field, and in their recipes by transform."""

import json
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

from kdcache.cache.documents.parts import JsonTable
from kdcache.errors import shortened
from kdcache.runtime.contrast import MOST_CHARS, contrasted

_MOST_TRANSFORMS = 200  # of which two recipes are compared; a manifest may come from anywhere
_ADDED = ("source.classes", "source.sizes", "source.contents")
"""Fields that the first manifests lack, with any value: they differ only where both have one."""
Entry = dict[str, Any]
"""A table of a recipe: a transform with its name."""
_RECIPE_FREE = ("name", "table.eval", "table.size")


class Sides:
    """How a message calls the two sides, `in the cache` and `now` for example."""

    def __init__(self, own_place: str, other_place: str) -> None:
        self.own_place = own_place
        self.other_place = other_place

    def line(self, name: str, value: Any, other_value: Any) -> str:
        """Return what a field is on both sides."""
        label = f"{shortened(name, MOST_CHARS)}:"
        return self.words(label, _text(value), _text(other_value))

    def words(self, label: str, text: str, other_text: str) -> str:
        """Return what something is on both sides, in words of which there may be many."""
        text, other_text = contrasted(text, other_text)
        return f"{label} {text} {self.own_place}, {other_text} {self.other_place}"


def manifest_differences(
    content: JsonTable,
    other_content: JsonTable,
    sides: Sides,
    *,
    free_names: Collection[str],
) -> list[str]:
    """Return one line for each field that differs in the contents of two manifests.

    Args:
        content: of the one.
        other_content: of the other.
        sides: what they are called.
        free_names: dotted names of fields, or of whole tables, that may differ.
    """
    lines: list[str] = []
    for name in _names_of(content, other_content):
        if name == "recipe":
            lines += recipe_differences(content[name], other_content[name], sides)
        elif name not in free_names:
            values = _flat(content.get(name), name)
            other_values = _flat(other_content.get(name), name)
            lines += _field_differences(values, other_values, sides, free_names)
    return lines


def recipe_differences(recipe: JsonTable, other_recipe: JsonTable, sides: Sides) -> list[str]:
    """Return which transforms of two recipes differ, and in what; both as a manifest keeps them."""
    table = recipe["table"]
    other_table = other_recipe["table"]
    lines = _transform_differences(table.get("transforms"), other_table.get("transforms"), sides)
    lines += _mixing_differences(table.get("mixing"), other_table.get("mixing"), sides)
    for name in _names_of(table, other_table):
        if name in ("transforms", "mixing") or f"table.{name}" in _RECIPE_FREE:
            continue
        value = table.get(name)
        other_value = other_table.get(name)
        if value != other_value:
            lines.append(sides.line(f"recipe.{name}", value, other_value))
    fingerprint = recipe["fingerprint"]
    other_fingerprint = other_recipe["fingerprint"]
    if not lines and fingerprint != other_fingerprint:
        return [sides.line("recipe.fingerprint", fingerprint, other_fingerprint)]
    return lines


def _names_of(table: JsonTable, other_table: JsonTable) -> Iterable[str]:
    """Return the names in two tables, each once: those of the first one first."""
    return dict.fromkeys([*table, *other_table])


def _field_differences(
    values: JsonTable,
    other_values: JsonTable,
    sides: Sides,
    free_names: Collection[str],
) -> list[str]:
    """Return the lines of one field of the manifest, from the values inside it by dotted name."""
    lines: list[str] = []
    for name in _names_of(values, other_values):
        is_in_both = name in values and name in other_values
        if name in free_names or (name in _ADDED and not is_in_both):
            continue
        value = values.get(name)
        other_value = other_values.get(name)
        if value != other_value:
            lines.append(sides.line(name, value, other_value))
    return lines


def _transform_differences(
    transforms: Any, other_transforms: Any, sides: Sides, within: str = ""
) -> list[str]:
    """Return the lines of two lists of transforms; `within` names the transform that holds them."""
    entries = _entries(transforms)
    other_entries = _entries(other_transforms)
    if _is_same(entries, other_entries):
        return []
    names = [entry["name"] for entry in entries]
    other_names = [entry["name"] for entry in other_entries]
    if names != other_names and sorted(names) == sorted(other_names):
        label = f"{within}order of transforms:"
        return [sides.words(label, ", ".join(names), ", ".join(other_names))]
    return _list_differences(entries, other_entries, sides, within)


def _list_differences(
    entries: list[Entry], other_entries: list[Entry], sides: Sides, within: str
) -> list[str]:
    """Return which transforms one of two lists lacks, and how those at one place differ."""
    changes: list[str] = []
    gaps: list[str] = []
    names = [entry["name"] for entry in entries]
    other_names = [entry["name"] for entry in other_entries]
    blocks = SequenceMatcher(None, names, other_names, autojunk=False).get_opcodes()
    for _, start, stop, other_start, other_stop in blocks:
        block = entries[start:stop]
        other_block = other_entries[other_start:other_stop]
        num_pairs = min(len(block), len(other_block))
        for step in range(num_pairs):
            place = f"{within}transform {start + step + 1}"
            changes += _pair_differences(block[step], other_block[step], sides, place)
        gaps += _missing(block[num_pairs:], sides.other_place)
        gaps += _missing(other_block[num_pairs:], sides.own_place)
    if len(entries) == len(other_entries):
        return [*gaps, *changes]
    count = f"{len(entries)} transforms {sides.own_place}"
    other_count = f"{len(other_entries)} {sides.other_place}"
    return [f"{within}{count}, {other_count}: {', '.join(gaps)}", *changes]


def _missing(entries: list[Entry], place: str) -> list[str]:
    return [f"{entry['name']} is missing {place}" for entry in entries]


def _pair_differences(entry: Entry, other_entry: Entry, sides: Sides, place: str) -> list[str]:
    """Return how two transforms at one place differ."""
    name = entry["name"]
    if name != other_entry["name"]:
        return [sides.words(f"{place}:", name, other_entry["name"])]
    lines: list[str] = []
    for key in _names_of(entry, other_entry):
        value = entry.get(key)
        other_value = other_entry.get(key)
        if _is_same(value, other_value):
            continue
        if key == "transforms" and value is not None and other_value is not None:
            within = f"{place}, {name}: its "
            lines += _transform_differences(value, other_value, sides, within)
        else:
            label = f"{place}, {name}: {key}"
            lines.append(sides.words(label, _text(value), _text(other_value)))
    return lines


def _mixing_differences(mixing: Any, other_mixing: Any, sides: Sides) -> list[str]:
    if not (isinstance(mixing, Mapping) and isinstance(other_mixing, Mapping)):
        if mixing == other_mixing:
            return []
        return [sides.line("mixing", mixing, other_mixing)]
    lines: list[str] = []
    for name in _names_of(mixing, other_mixing):
        value = mixing.get(name)
        other_value = other_mixing.get(name)
        if not _is_same(value, other_value):
            lines.append(sides.line(f"mixing.{name}", value, other_value))
    return lines


def _entries(transforms: Any) -> list[Entry]:
    """Return the tables of transforms, each with a name, which one from elsewhere may lack."""
    if not isinstance(transforms, list):
        return []
    entries: list[Entry] = []
    for entry in transforms[:_MOST_TRANSFORMS]:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            entries.append(entry)
        else:
            entries.append({"name": shortened(_text(entry), MOST_CHARS // 2)})
    return entries


def _flat(content: Any, prefix: str) -> dict[str, Any]:
    """Return values by dotted name."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}")
    return flat


def _is_same(value: Any, other_value: Any) -> bool:
    """Return whether two values are the same to a fingerprint, to which 1 and 1.0 are not."""
    return json.dumps(value, sort_keys=True) == json.dumps(other_value, sort_keys=True)


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    return json.dumps(value)
