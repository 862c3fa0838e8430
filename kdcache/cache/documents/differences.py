"""What differs between two manifests, in words: by field, and in their recipes by transform."""

import json
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher
from typing import Any

from kdcache.errors import shortened
from kdcache.runtime.contrast import MOST_CHARS, contrasted

_MOST_TRANSFORMS = 200  # of which two recipes are compared; a manifest may come from anywhere
_ADDED = ("source.classes", "source.sizes", "source.contents")
"""Fields that the first manifests lack, with any value: they differ only where both have one."""
Entry = dict[str, Any]
"""The table of a transform."""
_RECIPE_FREE = ("name", "table.eval", "table.size")


class Sides:
    """How a message calls the two sides, `in the cache` and `now` for example."""

    def __init__(self, here: str, there: str) -> None:
        self.here = here
        self.there = there

    def line(self, name: str, mine: Any, its: Any) -> str:
        """Return what a field is on both sides."""
        return self.words(f"{shortened(name, MOST_CHARS)}:", _text(mine), _text(its))

    def words(self, name: str, mine: str, its: str) -> str:
        """Return what something is on both sides, in words of which there may be many."""
        one, other = contrasted(mine, its)
        return f"{name} {one} {self.here}, {other} {self.there}"


def manifest_differences(
    mine: Mapping[str, Any],
    its: Mapping[str, Any],
    sides: Sides,
    *,
    free: Collection[str],
) -> list[str]:
    """Return one line for each field that differs in the contents of two manifests.

    Args:
        mine: content of the one.
        its: content of the other.
        sides: what they are called.
        free: dotted names of fields, or of whole tables, that may differ.
    """
    lines: list[str] = []
    for name in dict.fromkeys([*mine, *its]):
        if name == "recipe":
            lines += recipe_differences(mine[name], its[name], sides)
        elif name not in free:
            lines += _field_differences(name, mine.get(name), its.get(name), sides, free)
    return lines


def recipe_differences(mine: Mapping[str, Any], its: Mapping[str, Any], sides: Sides) -> list[str]:
    """Return which transforms of two recipes differ, and in what; both as a manifest keeps them."""
    one: Mapping[str, Any] = mine["table"]
    other: Mapping[str, Any] = its["table"]
    lines = _transform_differences(one.get("transforms"), other.get("transforms"), sides)
    lines += _mixing_differences(one.get("mixing"), other.get("mixing"), sides)
    for name in dict.fromkeys([*one, *other]):
        is_told = name in ("transforms", "mixing") or f"table.{name}" in _RECIPE_FREE
        if not is_told and one.get(name) != other.get(name):
            lines.append(sides.line(f"recipe.{name}", one.get(name), other.get(name)))
    if not lines and mine["fingerprint"] != its["fingerprint"]:
        return [sides.line("recipe.fingerprint", mine["fingerprint"], its["fingerprint"])]
    return lines


def _field_differences(
    name: str,
    mine: Any,
    its: Any,
    sides: Sides,
    free: Collection[str],
) -> list[str]:
    """Return the lines of one field of the manifest, and of those inside it."""
    one = _flat(mine, name)
    other = _flat(its, name)
    lines: list[str] = []
    for key in dict.fromkeys([*one, *other]):
        is_new = key in _ADDED and not (key in one and key in other)
        if key not in free and not is_new and one.get(key) != other.get(key):
            lines.append(sides.line(key, one.get(key), other.get(key)))
    return lines


def _transform_differences(mine: Any, its: Any, sides: Sides, within: str = "") -> list[str]:
    """Return the lines of two lists of transforms; `within` names the transform that holds them."""
    one = _entries(mine)
    other = _entries(its)
    if _is_same(one, other):
        return []
    names = [entry["name"] for entry in one]
    others = [entry["name"] for entry in other]
    if names != others and sorted(names) == sorted(others):
        return [sides.words(f"{within}order of transforms:", ", ".join(names), ", ".join(others))]
    changed: list[str] = []
    missing: list[str] = []
    blocks = SequenceMatcher(None, names, others, autojunk=False).get_opcodes()
    for _, first, last, start, stop in blocks:
        pairs = min(last - first, stop - start)
        for step in range(pairs):
            place = f"{within}transform {first + step + 1}"
            changed += _pair_differences(one[first + step], other[start + step], sides, place)
        missing += [f"{name} is missing {sides.there}" for name in names[first + pairs : last]]
        missing += [f"{name} is missing {sides.here}" for name in others[start + pairs : stop]]
    if len(one) == len(other):
        return [*missing, *changed]
    counts = f"{within}{len(one)} transforms {sides.here}, {len(other)} {sides.there}"
    return [f"{counts}: {', '.join(missing)}", *changed]


def _pair_differences(one: Entry, other: Entry, sides: Sides, place: str) -> list[str]:
    """Return how two transforms at one place differ."""
    if one["name"] != other["name"]:
        return [sides.words(f"{place}:", one["name"], other["name"])]
    lines: list[str] = []
    for key in dict.fromkeys([*one, *other]):
        mine = one.get(key)
        its = other.get(key)
        if _is_same(mine, its):
            continue
        if key == "transforms" and mine is not None and its is not None:
            lines += _transform_differences(mine, its, sides, f"{place}, {one['name']}: its ")
        else:
            lines.append(sides.words(f"{place}, {one['name']}: {key}", _text(mine), _text(its)))
    return lines


def _mixing_differences(mine: Any, its: Any, sides: Sides) -> list[str]:
    if mine is None or its is None or not (isinstance(mine, Mapping) and isinstance(its, Mapping)):
        return [] if mine == its else [sides.line("mixing", mine, its)]
    names = dict.fromkeys([*mine, *its])
    changed = [name for name in names if not _is_same(mine.get(name), its.get(name))]
    return [sides.line(f"mixing.{name}", mine.get(name), its.get(name)) for name in changed]


def _entries(transforms: Any) -> list[Entry]:
    """Return the tables of transforms, each with a name, which one from elsewhere may lack."""
    if not isinstance(transforms, list):
        return []
    entries: list[Entry] = []
    for entry in transforms[:_MOST_TRANSFORMS]:
        is_table = isinstance(entry, dict) and isinstance(entry.get("name"), str)
        entries.append(entry if is_table else {"name": shortened(_text(entry), MOST_CHARS // 2)})
    return entries


def _flat(content: Any, prefix: str) -> dict[str, Any]:
    """Return values by dotted name."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}")
    return flat


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to a fingerprint, to which 1 and 1.0 are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)
