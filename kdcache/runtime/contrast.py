"""Two values side by side in a message: each short, and never alike where the values are not."""

import re
from collections.abc import Sequence

from kdcache.errors import shortened

MOST_CHARS = 60
"""Characters of a value that a message shows."""
_MOST_IN_ALL = 300
_BEFORE = 15
_DIGEST = re.compile('"?([0-9a-f]{64})"?')
_DIGEST_CHARS = 12


def contrasted(text: str, other: str) -> tuple[str, str]:
    """Return two texts, each cut to `MOST_CHARS` characters that show where they differ."""
    if text == other or max(len(text), len(other)) <= MOST_CHARS:
        return text, other
    place = _first_difference(text, other)
    if _DIGEST.fullmatch(text) and _DIGEST.fullmatch(other) and place < _DIGEST_CHARS:
        return _digest_start(text), _digest_start(other)
    start = 0
    if place >= MOST_CHARS // 2:
        start = place - _BEFORE
    return _window(text, start), _window(other, start)


def joined(lines: Sequence[str], most: int = _MOST_IN_ALL) -> str:
    """Return as many of the lines as `most` characters hold, and how many more there are."""
    pieces: list[str] = []
    room = most
    for line in lines:
        room -= len(line) + 2
        if room < 0 and pieces:
            break
        pieces.append(shortened(line, most))
    if more := len(lines) - len(pieces):
        pieces.append(f"and {more} more")
    return "; ".join(pieces)


def _first_difference(text: str, other: str) -> int:
    """Return the first place at which two texts differ, which may be the end of one."""
    length = min(len(text), len(other))
    for place in range(length):
        if text[place] != other[place]:
            return place
    return length


def _window(text: str, start: int) -> str:
    """Return as much of `text` from `start` on as is shown, with dots where it is cut."""
    before = ""
    if start:
        before = "..."
    piece = text[start:]
    if len(before) + len(piece) <= MOST_CHARS:
        return before + piece
    return f"{before}{piece[: MOST_CHARS - len(before) - 3]}..."


def _digest_start(text: str) -> str:
    return f"{text.strip(chr(34))[:_DIGEST_CHARS]}..."
