"""The labels of a table: class indices, or names of classes.

A label is text, a whole number or a truth value. What is none of these is refused with its line:
it would else be the name of one more class, which moves the indices of the others.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from kdcache.config.names import choose
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.shapes import MOST_CLASSES
from kdcache.sources.table_spec import TableSpec

_NUMBER = re.compile(r"(-?[0-9]{1,100})(\.0*)?")
"""A class index; programs write `3.0` where a column had a gap."""
_FRACTION = re.compile(r"-?[0-9]*\.[0-9]+(e[-+]?[0-9]+)?|-?[0-9]+e[-+][0-9]+", re.IGNORECASE)
_ABSENT = ("", "nan", "<na>")
"""What programs write where a column had a gap, in lower case."""
_NAMES = "give classes=FILE, a name on each line, if labels are names"


def targets_of(
    table: TableSpec, labels: Sequence[Any], lines: Sequence[int]
) -> tuple[list[int], tuple[str, ...] | int]:
    """Return the class index of each label, and the names of the classes or their number.

    Args:
        table: whose labels they are.
        labels: as the table has them.
        lines: their numbers.

    Raises:
        SourceError: a label is absent.
        UsageError: a label that is no class.
    """
    names = table.class_names
    texts = _label_texts(table, labels, lines)
    matches = [_NUMBER.fullmatch(text) for text in texts]
    num_numbers = len(texts) - matches.count(None)
    are_most_numbers = 2 * num_numbers > len(texts)
    are_indices = _states_count(table) or are_most_numbers
    if are_indices and not set(texts).intersection(names or ()):
        indices = _indices(table, texts, lines)
        return indices, names or table.num_classes or max(indices) + 1
    if names is None:
        names = _sorted_names(table, texts)
    places = {name: index for index, name in enumerate(names)}
    targets = []
    for text, line in zip(texts, lines, strict=True):
        if text not in places:
            choose(text, places, f"label in line {line} of {table.path}")
        targets.append(places[text])
    return targets, names


def _states_count(table: TableSpec) -> bool:
    """Return whether a table's spec says how many classes there are, and not their names."""
    return table.class_names is None and table.num_classes is not None


def _label_texts(table: TableSpec, labels: Sequence[Any], lines: Sequence[int]) -> list[str]:
    """Return the labels as texts.

    Raises:
        SourceError: one is absent.
        UsageError: one is no label.
    """
    names = frozenset(table.class_names or ())
    texts = []
    for label, line in zip(labels, lines, strict=True):
        text = _label_text(table, label, line)
        if text not in names:
            _require_label(table, label, text, line)
        texts.append(text)
    return texts


def _label_text(table: TableSpec, label: Any, line: int) -> str:
    """Return a label as text.

    Raises:
        UsageError: it is a list, a date, bytes of no text or another value that names no class.
    """
    if label is None:
        return ""
    if isinstance(label, bytes):
        with suppress(UnicodeDecodeError):
            label = label.decode()
    if not isinstance(label, str | int | float | Decimal):
        raise UsageError(
            f"{table.place(line)}: label {quoted(label)} is neither UTF-8 text nor a number; give"
            " label=COLUMN, a column of class indices or names"
        )
    return str(label).strip()


def _require_label(table: TableSpec, label: Any, text: str, line: int) -> None:
    """Raise an error if a label, which is no stated name, is absent or a number with a fraction."""
    if text.lower() in _ABSENT:
        shown = ""
        if text:
            shown = f" ({text})"
        raise SourceError(
            f"{table.place(line)} has no {table.label}{shown}; leave it out, or give label=COLUMN"
        )
    is_whole = _NUMBER.fullmatch(text) is not None
    is_number = isinstance(label, float | Decimal) or _FRACTION.fullmatch(text) is not None
    if is_number and not is_whole:
        raise UsageError(
            f"{table.place(line)}: label {quoted(text)} is no whole number; give class indices from"
            f" 0, or {_NAMES}"
        )


def _indices(table: TableSpec, texts: Iterable[str], lines: Iterable[int]) -> list[int]:
    """Return labels that are class indices as numbers.

    Raises:
        UsageError: one is none; its line is named.
    """
    num_classes = table.num_classes or MOST_CLASSES
    indices = []
    for text, line in zip(texts, lines, strict=True):
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise _no_index(table, text, line)
        index = int(match[1])
        if not 0 <= index < num_classes:
            raise _no_index(table, text, line)
        indices.append(index)
    return indices


def _no_index(table: TableSpec, text: str, line: int) -> UsageError:
    """Return that a label is no class index, and what helps."""
    largest = (table.num_classes or MOST_CLASSES) - 1
    others = ""
    if _NUMBER.fullmatch(text) is None and not _states_count(table):
        others = ", as most labels are"
    way_out = _NAMES
    if table.class_names is not None:
        way_out = "add it to the file of classes"
    elif table.num_classes is not None:
        way_out = f"give a larger classes=N, or {_NAMES}"
    return UsageError(
        f"{table.place(line)}: label {quoted(text)} is no class index from 0 to {largest}{others};"
        f" mend the line, leave it out, or {way_out}"
    )


def _sorted_names(table: TableSpec, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the labels as names of classes, in the order of the alphabet.

    Raises:
        UsageError: there are more than a cache can hold.
    """
    names = tuple(sorted(set(texts)))
    if len(names) > MOST_CLASSES:
        raise UsageError(
            f"{table.kind} {table.path} has {len(names)} different labels; there may be"
            f" {MOST_CLASSES}: give label=COLUMN, the column of the classes"
        )
    return names
