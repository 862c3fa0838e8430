"""How numbers and paths are told: counts with their nouns, sizes, durations, shares, ranges; and
how a line is broken on a terminal."""

import os
import shutil
import textwrap
from collections.abc import Iterable, Sequence

_MOST_SPANS = 12


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 unit` or `3 units`."""
    return f"{number} {_form_of(number, noun)}"


def _form_of(number: int, noun: str) -> str:
    """Return a noun in its form after a number, of those that take s or es."""
    if number == 1:
        return noun
    is_hissed = noun.endswith(("s", "x", "sh", "ch")) and noun != "epoch"
    if is_hissed:
        return f"{noun}es"
    return f"{noun}s"


def named(numbers: Sequence[int], noun: str) -> str:
    """Return numbers after their noun, such as `seed 3` or `seeds 0 to 4, 7`."""
    return f"{_form_of(len(numbers), noun)} {ranges(numbers)}"


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def human_rate(rate: float) -> str:
    """Return how many there are a second: a whole number, and below one two digits that say
    something."""
    if 0 < rate < 1:
        return f"{rate:.2g}"
    return f"{rate:,.0f}"


def percent_done(done: int, total: int) -> str:
    """Return in whole percent how much of `total` is done: 100 only if all is, 0 only if nothing
    is."""
    share = 100 * done // max(total, 1)
    if done and not share:
        return "under 1 %"
    return f"{share} %"


def ranges(numbers: Iterable[int], *, most_spans: int = _MOST_SPANS) -> str:
    """Return numbers as `0 to 3, 7`; of more than `most_spans` spans the first, and how many more
    numbers there are."""
    spans = _spans(numbers)
    parts: list[str] = []
    for first, last in spans[:most_spans]:
        parts.append(_span_text(first, last))
    num_hidden = 0
    for first, last in spans[most_spans:]:
        num_hidden += last - first + 1
    if num_hidden:
        parts.append(f"and {num_hidden} more")
    return ", ".join(parts) or "none"


def without_common_folder(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that all of two paths or more lie in, and the paths below it; an empty
    folder, and the paths as they are, if they have none in common."""
    try:
        folder = os.path.commonpath(paths)
    except ValueError:  # some begin at the root, others do not
        folder = ""
    if not folder or folder in paths:
        return "", list(paths)
    return folder, [path.removeprefix(f"{folder}/") for path in paths]


def _spans(numbers: Iterable[int]) -> list[list[int]]:
    """Return the first and last number of each run of numbers that follow each other."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return spans


def _span_text(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first} to {last}"


def wrapped_line(line: str, *, on_terminal: bool, label: str = "") -> str:
    """Return a line as it is printed: on a terminal broken between words, else as it is, for logs.

    Args:
        line: without an end.
        on_terminal: where it goes.
        label: stands before the line, and the lines that follow are indented by its width; without
            one by two columns.
    """
    whole = f"{label}{line}"
    if not on_terminal:
        return whole
    indent = len(label) or 2
    width = shutil.get_terminal_size().columns
    if len(whole) <= width or width < 2 * indent:
        return whole
    return textwrap.fill(
        line,
        width,
        initial_indent=label,
        subsequent_indent=indent * " ",
        replace_whitespace=False,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )
