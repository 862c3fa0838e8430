"""What a run has written of itself, read back; all of it without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, without those that cannot be read; none if there is no
    file.

    Raises:
        KdcacheError: the file cannot be read.
    """
    return parsed_metrics(path)[0]


def parsed_metrics(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the lines of a metrics file, and the numbers of those that cannot be read.

    A last line without an end was cut off when its run was killed: it is left out, and no damage.

    Raises:
        KdcacheError: the file cannot be read.
    """
    text = ""
    try:
        if path.exists():
            text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise KdcacheError(
            f"cannot read {path}: {error.strerror}; run again when it can be read"
        ) from error
    lines = []
    damaged = []
    rows = text.split("\n")
    for number, row in enumerate(rows, start=1):
        line = _parsed_line(row)
        if line is not None:
            lines.append(line)
        elif number < len(rows):
            damaged.append(number)
    return lines, damaged


def _parsed_line(text: str) -> dict[str, Any] | None:
    """Return a line of metrics; None of a text that is none."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    if not isinstance(line.get("step"), int) or not isinstance(line.get("epoch", 0), int):
        return None
    return line


def read_result(path: Path) -> dict[str, Any] | None:
    """Return what a file of a result holds; None if it is damaged."""
    try:
        result = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    if not isinstance(result, dict):
        return None
    return result


def is_of_epochs(result: Mapping[str, Any] | None, epochs: int) -> bool:
    """Return whether a result, if there is one, is that of a run of so many epochs: a run that is
    extended holds the result of the shorter one until it comes to its end."""
    return result is not None and result.get("epochs", epochs) == epochs
