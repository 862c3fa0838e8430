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
        most_headers = _MOST_HEADERS
        largest_header = _LARGEST_HEADER
        if is_own:
            most_headers = _OWN_HEADERS
            largest_header = _OWN_HEADER
        position = 0
        last = ""
        extended: dict[str, str] = {}  # what extended headers say of the next member
        num_headers = 0
        while header := self._header(position, last, is_own=is_own):
            member = self._member(header, position, extended)
            num_blocks = -(-member.size // _BLOCK)
            position = member.offset + num_blocks * _BLOCK
            if header.type in _EXTENSIONS:
                num_headers += 1
                if num_headers > most_headers or member.size > largest_header:
                    _refuse(
                        f"the extended headers at byte {member.offset} are more, or larger, than"
                        " any that a tar needs"
                    )
                extended |= self._extension(header.type, member)
                continue
            if is_own and header.type == tarfile.DIRTYPE:
                _refuse(f"member {brief(member.name)} is a folder; such a tar holds none")
            if self._is_plain(header.type, member, extended):
                yield member
            last = member.name
            extended = {}
            num_headers = 0

    def _member(self, header: tarfile.TarInfo, position: int, extended: dict[str, str]) -> Member:
        """Return the member whose own header is at `position`."""
        name = extended.get("path", header.name)
        size = self._size(header, extended)
        member = Member(name, position + _BLOCK, size)
        end = member.offset + size
        if end > self.size:
            _refuse(
                f"it is cut short: member {brief(name)} ends at byte {end}, the file at"
                f" {self.size}; copy it again"
            )
        return member

    def _extension(self, kind: bytes, member: Member) -> dict[str, str]:
        """Return what an extended header says of the next member."""
        if kind == tarfile.XHDTYPE:
            return self._pax(member)
        if kind == tarfile.GNUTYPE_LONGNAME:
            name = self.text(member).partition(b"\0")[0]
            return {"path": _decoded(name)}
        return {}

    def _is_plain(self, kind: bytes, member: Member, extended: dict[str, str]) -> bool:
        """Return whether a member is a plain file; a directory is not, all else is refused."""
        if any(key.startswith("GNU.sparse") for key in extended):
            kind = b"S"
        if kind == tarfile.DIRTYPE:
            return False
        if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            what = _KINDS.get(kind, f"of type {kind!r}")
            _refuse(f"member {brief(member.name)} is {what}; only plain files are read")
        if "\0" in member.name or len(member.name) > _LONGEST_NAME:
            _refuse(
                f"member name {quoted(member.name)} holds a zero, or more than {_LONGEST_NAME}"
                " characters"
            )
        return True

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
        value: str | int = header.size
        if header.type not in _EXTENSIONS:
            value = extended.get("size", header.size)
        try:
            size = int(value)
        except ValueError:
            size = -1
        if size < 0:
            _refuse(f"member {brief(header.name)} has size {brief(value)}")
        if header.type == tarfile.DIRTYPE:
            return 0
        return size

    def _pax(self, member: Member) -> dict[str, str]:
        """Return the records `LENGTH KEY=VALUE` of an extended header."""
        text = self.text(member)
        fields = {}
        at = 0
        while at < len(text):
            digits = text[at : at + 8].partition(b" ")[0]
            start = at + len(digits) + 1
            end = 0
            if digits.isdigit() and len(digits) < 8:
                end = at + int(digits)
            record = text[start:end]
            is_whole = start < end <= len(text) and record.endswith(b"\n")
            if not is_whole or b"=" not in record:
                _refuse(
                    f"it is damaged: the extended header at byte {member.offset} cannot be read"
                )
            key, _, value = record[:-1].partition(b"=")
            if key in _PAX_KEYS or key.startswith(b"GNU.sparse"):
                name = _decoded(key)[:20]
                fields[name] = _decoded(value)
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


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
