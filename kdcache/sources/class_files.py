"""Text files of a data set: the names of its classes, and which id of a mask is which class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.runtime.text_files import read_columns, read_lines, require_unique
from kdcache.shapes import IGNORED
from kdcache.sources.masks import LARGEST_ID

_NO_CLASS = ("void", "ignore", "none")


def read_class_names(
    path: str, source: str = "segfolder", *, may_be_number: bool = True
) -> tuple[str, ...]:
    """Return the names of the classes, a line each.

    Args:
        path: of the file.
        source: whose option `classes` it is, for messages.
        may_be_number: whether that option may be a number as well.

    Raises:
        UsageError: no such file, or an empty one.
    """
    if not Path(path).is_file():
        what = "no text file"
        if may_be_number:
            what = "neither a number nor a text file"
        raise UsageError(f"{source}: classes={path} is {what} with a name on each line")
    names = tuple(line.text for line in read_lines(path, f"{source}: classes ="))
    if not names:
        raise UsageError(f"{source}: classes={path} is an empty file; write a class on each line")
    return names


def read_ids(path: str, classes: int, names: Sequence[str] | None) -> dict[int, int]:
    """Return the class of each id, IGNORED for none.

    Raises:
        UsageError: no such file, a line of another form, or an id twice.
    """
    what = "segfolder: ids ="
    numbers = {name: index for index, name in enumerate(names or ())}
    lines = read_columns(path, what, {*numbers, *_NO_CLASS}, titles=("id", "class"))
    numbered_ids = []
    for line in lines:
        digits = line.fields[0].lstrip("0") or "0"
        numbered_ids.append((line.number, digits))
    require_unique(numbered_ids, f"{what} {path}")
    ids = {}
    for line in lines:
        target = _target_of(line.fields, numbers)
        if target is None or not (target < classes or target == IGNORED):
            by_name = ""
            if numbers:
                by_name = ", or its name"
            raise UsageError(
                f"{what} {path}, line {line.number}: {line.text!r} is not ID,CLASS: an id from 0 to"
                f" {LARGEST_ID} and a class from 0 to {classes - 1}{by_name}, or {IGNORED}, void or"
                " nothing for an id without a class"
            )
        ids[int(line.fields[0])] = target
    return ids


def _target_of(fields: Sequence[str], numbers: Mapping[str, int]) -> int | None:
    """Return the class that a line says; None if it is no pair of an id and a class."""
    if len(fields) != 2:
        return None
    number, name = fields
    if not number.isdecimal() or int(number) > LARGEST_ID:
        return None
    return _class_of(name, numbers)


def _class_of(text: str, numbers: Mapping[str, int]) -> int | None:
    if text in numbers:
        return numbers[text]
    if not text or text.lower() in _NO_CLASS:
        return IGNORED
    if text.isdecimal():
        return int(text)
    return None
