"""The members of an uncompressed tar, by reading its headers only.

A tar is read as POSIX.1-2001 says (ustar, pax; and GNU's long names), without Python's `TarFile`,
which takes a damaged header for the end. Plain files are all that it may hold.
"""

import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from kdcache.errors import brief, quoted

LARGEST_TEXT = 1 << 20
"""Bytes of a target."""
_LARGEST_HEADER = 1 << 16
_MOST_HEADERS = 4
"""Bytes of an extended header, and how many may come before one member."""
_OWN_HEADER = 1 << 10
_OWN_HEADERS = 1
"""The same in the tars that kdcache writes: there a header holds a name."""
_LONGEST_NAME = 4096
_BLOCK = 512
END = 2 * _BLOCK
"""Bytes of zeros at the end of a tar, as POSIX has it; other tools write more."""
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PAX_KEYS = (b"path", b"size")
"""What extended headers say that matters here; of the others they may hold many."""
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class Member(NamedTuple):
    """A plain file in a tar: bytes `offset` to `offset + size`."""

    name: str
    offset: int
    size: int


class TarReader:
    """Reads a tar of `size` bytes through `read(position, size)`."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self.read = read
        self.size = size

    @classmethod
    def of(cls, data: bytes) -> "TarReader":
        """Return the reader of a tar in memory."""
        return cls(lambda position, size: data[position : position + size], len(data))

    def members(self, *, is_own: bool = False) -> Iterator[Member]:
        """Yield the plain files; directories are passed over.

        Args:
            is_own: whether it is to be as kdcache writes tars: without directories, and with one
                short extended header at most before each member, so that there are no more headers
                than the members ask for.

        Raises:
            ValueError: anything else is in it, or it does not end as a tar ends.
        """
        most_headers = _OWN_HEADERS if is_own else _MOST_HEADERS
        largest_header = _OWN_HEADER if is_own else _LARGEST_HEADER
        position = 0
        last = ""
        extended: dict[str, str] = {}  # what extended headers say of the next member
        headers = 0
        while header := self._header(position, last, is_own=is_own):
            size = self._size(header, {} if header.type in _EXTENSIONS else extended)
            member = Member(extended.get("path", header.name), position + _BLOCK, size)
            position = member.offset + -(-size // _BLOCK) * _BLOCK
            if (end := member.offset + size) > self.size:
                _refuse(
                    f"it is cut short: member {brief(member.name)} ends at byte {end}, the file at"
                    f" {self.size}; copy it again"
                )
            headers = headers + 1 if header.type in _EXTENSIONS else 0
            if headers > most_headers or (headers and size > largest_header):
                _refuse(
                    f"the extended headers at byte {member.offset} are more, or larger, than any"
                    " that a tar needs"
                )
            if header.type == tarfile.XHDTYPE:
                extended |= self._pax(member)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = (
                    self.text(member).partition(b"\0")[0].decode("utf-8", "backslashreplace")
                )
            elif is_own and header.type == tarfile.DIRTYPE:
                _refuse(f"member {brief(member.name)} is a folder; such a tar holds none")
            elif header.type not in _EXTENSIONS:
                yield from self._plain(header.type, member, extended)
                extended = {}
                last = member.name

    def _plain(self, kind: bytes, member: Member, extended: dict[str, str]) -> Iterator[Member]:
        if any(key.startswith("GNU.sparse") for key in extended):
            kind = b"S"
        if kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
            if "\0" in member.name or len(member.name) > _LONGEST_NAME:
                _refuse(
                    f"member name {quoted(member.name)} holds a zero, or more than {_LONGEST_NAME}"
                    " characters"
                )
            yield member
        elif kind != tarfile.DIRTYPE:
            _refuse(
                f"member {brief(member.name)} is {_KINDS.get(kind, f'of type {kind!r}')}; only"
                " plain files are read"
            )

    def _header(self, position: int, last: str, *, is_own: bool) -> tarfile.TarInfo | None:
        """Return the header at `position`, or None if the archive ends there as it should."""
        block = self.read(position, _BLOCK)
        for magic, name in _COMPRESSED.items():
            if position == 0 and block.startswith(magic):
                _refuse(f"it is compressed ({name}); decompress it: samples are read at random")
        if len(block) < _BLOCK:
            _refuse(
                f"it is cut short: it ends at byte {self.size}, after member {quoted(last)},"
                " without an end mark; copy it again"
            )
        if not any(block):
            if is_own and self.size - position > END:
                _refuse(f"it goes on after its end mark at byte {position}, up to byte {self.size}")
            self._check_end(position)
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.TarError as error:
            what = "not a tar"
            if position:
                what = f"damaged at byte {position}, after member {quoted(last)}"
            _refuse(f"it is {what} ({error})")

    def _check_end(self, position: int) -> None:
        while data := self.read(position, LARGEST_TEXT):
            if data != bytes(len(data)):
                _refuse(
                    f"it goes on after its end mark at byte {position} (tars joined with cat?);"
                    " unpack and pack it again"
                )
            position += len(data)

    def _size(self, header: tarfile.TarInfo, extended: dict[str, str]) -> int:
        try:
            size = int(extended.get("size", header.size))
        except ValueError:
            size = -1
        if size < 0:
            _refuse(
                f"member {brief(header.name)} has size {brief(extended.get('size', header.size))}"
            )
        return size if header.type != tarfile.DIRTYPE else 0

    def _pax(self, member: Member) -> dict[str, str]:
        """Return the records `LENGTH KEY=VALUE` of an extended header."""
        text = self.text(member)
        fields = {}
        at = 0
        while at < len(text):
            digits = text[at : at + 8].partition(b" ")[0]
            end = at + int(digits) if digits.isdigit() and len(digits) < 8 else 0
            record = text[at + len(digits) + 1 : end]
            if (
                not at + len(digits) + 1 < end <= len(text)
                or not record.endswith(b"\n")
                or b"=" not in record
            ):
                _refuse(
                    f"it is damaged: the extended header at byte {member.offset} cannot be read"
                )
            key, _, value = record[:-1].partition(b"=")
            if key in _PAX_KEYS or key.startswith(b"GNU.sparse"):
                fields[key.decode("utf-8", "backslashreplace")[:20]] = value.decode(
                    "utf-8", "backslashreplace"
                )
            at = end
        return fields

    def text(self, member: Member) -> bytes:
        """Return what a small member holds.

        Raises:
            ValueError: it is large.
        """
        if member.size > LARGEST_TEXT:
            _refuse(
                f"member {brief(member.name)} has {member.size} bytes; a target has at most"
                f" {LARGEST_TEXT}"
            )
        return self.read(member.offset, member.size)


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
