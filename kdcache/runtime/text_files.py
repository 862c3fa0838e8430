"""Text files that users write by hand, and the bytes of names that need not be UTF-8.

Every editor leaves its own marks: a byte order mark, UTF-16, `\r\n`. None of them is part of what
the user wrote.
"""

import codecs
import csv
import io
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdcache.errors import UsageError, brief, quoted
from kdcache.runtime.console import say
from kdcache.runtime.file_kinds import kind_of
from kdcache.runtime.files import plain_bytes


class Line(NamedTuple):
    """One line of a text file that is not blank."""

    number: int
    """Counted from 1."""
    text: str


class Columns(NamedTuple):
    """The fields of one line of a file with columns."""

    number: int
    """Of the line, counted from 1."""
    fields: list[str]

    @property
    def text(self) -> str:
        """The line, for messages."""
        return brief(",".join(self.fields))


def read_text(path: str | Path, what: str) -> str:
    r"""Return the text of a file: UTF-8, or UTF-16 with a byte order mark; lines end with `\n`.

    Args:
        path: of the file.
        what: the file is, for messages, such as `class map`.

    Raises:
        UsageError: the file cannot be read, or is no text in these encodings.
    """
    try:
        data = plain_bytes(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {path} cannot be read: {reason}") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{what} {path} is no UTF-8 text: {_looks_like(data)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, what: str) -> list[Line]:
    """Return the lines of a text file without the blanks around them; blank lines are left out.

    Raises:
        UsageError: see `read_text`; or two lines are equal.
    """
    lines: list[Line] = []
    # not splitlines, which also cuts at characters that a file's name may hold
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        if text := line.strip():
            lines.append(Line(number, text))
    require_unique(lines, f"{what} {path}")
    return lines


def read_columns(
    path: str | Path, what: str, words: Container[str] = (), *, titles: Sequence[str] = ()
) -> list[Columns]:
    """Return the fields of each line of a file of comma-separated values.

    Blank lines are left out, and so is a first line that names the columns: each of its fields has
    a letter, and none is a word of the data. It is told if these are not their usual names.

    Args:
        path: of the file.
        what: the file is, for messages.
        words: fields with letters that the lines of data may have.
        titles: usual names of the columns.

    Raises:
        UsageError: see `read_text`; or quotes that do not fit.
    """
    reader = csv.reader(io.StringIO(read_text(path, what)))
    lines: list[Columns] = []
    try:
        for fields in reader:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                lines.append(Columns(reader.line_num, stripped))
    except csv.Error as error:
        raise UsageError(f"{what} {path}, line {reader.line_num}: {error}") from error
    if not lines or not _are_titles(lines[0].fields, words):
        return lines
    first = lines[0]
    if first.fields != [*titles]:
        line = f"line {first.number} ({first.text})"
        say(f"note: {what} {path}: {line} is taken for the names of the columns")
    return lines[1:]


def _are_titles(fields: Sequence[str], words: Container[str]) -> bool:
    """Return whether fields name columns: all have a letter, and none is a word of the data."""
    return all(_has_letter(field) and field not in words for field in fields)


def _has_letter(text: str) -> bool:
    return any(char.isalpha() for char in text)


def require_unique(items: Iterable[tuple[int, str]], where: str) -> None:
    """Check that none of some texts, each with the number of its line, comes twice.

    Raises:
        UsageError: one does; both of its lines are named.
    """
    first: dict[str, int] = {}
    for number, text in items:
        if text in first:
            raise UsageError(
                f"{where} has {quoted(text)} twice, in lines {first[text]} and {number}; keep one"
            )
        first[text] = number


def path_bytes(text: str) -> bytes:
    """Return the bytes of a text that may hold paths; one that is not UTF-8 gives the bytes that it
    has on disk."""
    return text.encode("utf-8", "surrogateescape")


def path_text(data: bytes) -> str:
    """Return the text of which `path_bytes` has made these bytes."""
    return data.decode("utf-8", "surrogateescape")


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "ascii"  # which it is not: the first mark of UTF-32 is that of UTF-16 too
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _looks_like(data: bytes) -> str:
    """Return what a file seems to be, and the way out."""
    if kind := kind_of(data):
        return f"it is {kind}; save what it holds as plain text, UTF-8"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return _to_convert("UTF-32", data)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it begins as UTF-16 and is damaged; save it again as UTF-8"
    if b"\0" in data:
        for name, zeros in (("UTF-16LE", data[1::2]), ("UTF-16BE", data[0::2])):
            if zeros.count(0) > len(zeros) // 2:
                return _to_convert(name, data)
        return "it is a binary file; give a text file"
    return _to_convert("Windows-1252 or another 8-bit encoding", data, "WINDOWS-1252")


def _to_convert(name: str, data: bytes, codec: str = "") -> str:
    place = ""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f" (byte 0x{data[error.start]:02x} in line {line})"
    return (
        f"it looks like {name}{place}; save it as UTF-8, as with: iconv -f {codec or name} -t UTF-8"
    )
