"""The index of one image tar: which bytes are the image of which key, and its target.

Only headers and targets are read. A tar is read as POSIX.1-2001 says (ustar, pax; and GNU's long names), without Python's
`TarFile`, which takes a damaged header for the end.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from kdcache.errors import SourceError
from kdcache.sources.kept import Names, is_settled, load_arrays, save_arrays

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")

_BLOCK = 512
_LARGEST_TEXT = 1 << 20  # of a target or an extended header
_LARGEST_TARGET = 2**31 - 1
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # the key ends at the first dot of the last part, as in webdataset
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Shard:
    """One indexed tar: sample i is bytes `offsets[i]` to `offsets[i] + sizes[i]`, of class `targets[i]`."""

    path: str
    stamp: tuple[int, int]
    """Size and modification time in ns, when it was indexed."""
    keys: Names
    offsets: Ints
    sizes: Ints
    targets: Ints


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def index_tar(path: str, target: str) -> Shard:
    """Return the index of a tar, as kept under KDCACHE_HOME if the tar has not changed since.

    Args:
        path: an uncompressed tar.
        target: where a key's class index is: `cls` (member KEY.cls, its digits) or the name of an integer in member KEY.json.

    Raises:
        SourceError: no tar, cut short, damaged, with members that are no plain files, or a key without image or target.
    """
    try:
        with Path(path).open("rb") as file:
            stat = os.fstat(file.fileno())
            stamp = (stat.st_size, stat.st_mtime_ns)
            identity = f"{target} {os.path.abspath(path)}"  # noqa: PTH100 # links keep their names
            kept = load_arrays("tars", identity)
            if kept is None or tuple(kept["stamp"].tolist()) != stamp:
                kept = {"stamp": np.array(stamp, np.int64), **_Reader(path, file.fileno(), stat.st_size).index(target)}
                if is_settled([stat.st_mtime_ns]):
                    save_arrays("tars", identity, kept)
    except OSError as error:
        raise SourceError(f"tar {path} cannot be read: {error.strerror or error}") from error
    return Shard(path, stamp, Names(kept["keys"]), kept["offsets"], kept["sizes"], kept["targets"])


class _Reader:
    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self.path, self.descriptor, self.size = path, descriptor, size

    def index(self, target: str) -> dict[str, "np.ndarray[Any, np.dtype[Any]]"]:
        """Return the arrays of a Shard."""
        images, targets = self._grouped("cls" if target == "cls" else "json")
        for key in sorted(images.keys() ^ targets.keys())[:1]:
            wanted = (
                "target (KEY.cls; or target=NAME, an integer in KEY.json)" if key in images else f"image ({', '.join(IMAGES)})"
            )
            self._refuse(f"key {key!r} has no {wanted}; add it, or take the key out")
        if not images:
            self._refuse(f"it holds no image ({', '.join(IMAGES)})")
        return {
            "keys": Names.of(images).text,
            "offsets": np.array([image.offset for image in images.values()], np.int64),
            "sizes": np.array([image.size for image in images.values()], np.int64),
            "targets": np.array([self._target(targets[key], target) for key in images], np.int64),
        }

    def _grouped(self, suffix: str) -> tuple[dict[str, _Member], dict[str, _Member]]:
        """Return each key's image and the member that holds its target."""
        images: dict[str, _Member] = {}
        targets: dict[str, _Member] = {}
        for member in self._members():
            match = _NAME.fullmatch(member.name.removeprefix("./"))
            if match is None:
                continue
            key, extension = match[1], match[2].lower()
            group = images if extension in IMAGES else targets if extension == suffix else None
            if group is not None and key in group:
                self._refuse(f"key {key!r} comes twice: {group[key].name} and {member.name}; keep one")
            if group is not None:
                group[key] = member
        return images, targets

    def _target(self, member: _Member, target: str) -> int:
        text = self._text(member)
        try:
            value = json.loads(text)[target] if target != "cls" else int(text) if text.strip().isdigit() else None
        except (ValueError, KeyError, TypeError, RecursionError):
            value = None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_TARGET:
            wanted = "an integer from 0" if target == "cls" else f"an object with an integer {target!r} from 0"
            self._refuse(f"member {member.name} must hold {wanted}, not {text[:40]!r}")
        return value

    def _members(self) -> Iterator[_Member]:
        """Yield the plain files; directories are passed over.

        Raises:
            SourceError: anything else is in it, or it does not end as a tar ends.
        """
        position, last = 0, ""
        extended: dict[str, str] = {}  # what extended headers say of the next member
        while header := self._header(position, last):
            size = self._size(header, {} if header.type in _EXTENSIONS else extended)
            member = _Member(extended.get("path", header.name), position + _BLOCK, size)
            position = member.offset + -(-size // _BLOCK) * _BLOCK
            if (end := member.offset + size) > self.size:
                self._refuse(
                    f"it is cut short: member {member.name} ends at byte {end}, the file at {self.size}; copy it again"
                )
            if header.type == tarfile.XHDTYPE:
                extended |= self._pax(member)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = self._text(member).partition(b"\0")[0].decode("utf-8", "backslashreplace")
            elif header.type not in _EXTENSIONS:
                yield from self._plain(header.type, member, extended)
                extended, last = {}, member.name

    def _plain(self, kind: bytes, member: _Member, extended: dict[str, str]) -> Iterator[_Member]:
        if any(key.startswith("GNU.sparse") for key in extended):
            kind = b"S"
        if kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
            if "\0" in member.name:
                self._refuse(f"member name {member.name!r} holds a zero")
            yield member
        elif kind != tarfile.DIRTYPE:
            self._refuse(f"member {member.name} is {_KINDS.get(kind, f'of type {kind!r}')}; only plain files are read")

    def _header(self, position: int, last: str) -> tarfile.TarInfo | None:
        """Return the header at `position`, or None if the archive ends there as it should."""
        block = os.pread(self.descriptor, _BLOCK, position)
        for magic, name in _COMPRESSED.items():
            if position == 0 and block.startswith(magic):
                self._refuse(f"it is compressed ({name}); decompress it: samples are read at random")
        if len(block) < _BLOCK:
            self._refuse(
                f"it is cut short: it ends at byte {self.size}, after member {last!r}, without an end mark; copy it again"
            )
        if not any(block):
            self._check_end(position)
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.TarError as error:
            what = f"damaged at byte {position}, after member {last!r}" if position else "not a tar"
            self._refuse(f"it is {what} ({error})")

    def _check_end(self, position: int) -> None:
        while data := os.pread(self.descriptor, _LARGEST_TEXT, position):
            if any(data):
                self._refuse(
                    f"it goes on after its end mark at byte {position} (tars joined with cat?); unpack and pack it again"
                )
            position += len(data)

    def _size(self, header: tarfile.TarInfo, extended: dict[str, str]) -> int:
        try:
            size = int(extended.get("size", header.size))
        except ValueError:
            size = -1
        if size < 0:
            self._refuse(f"member {header.name} has size {extended.get('size', header.size)}")
        return size if header.type != tarfile.DIRTYPE else 0

    def _pax(self, member: _Member) -> dict[str, str]:
        """Return the records `LENGTH KEY=VALUE` of an extended header."""
        text, fields = self._text(member), {}
        while text:
            digits, _, _ = text.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            record = text[len(digits) + 1 : length]
            if not len(digits) + 1 < length <= len(text) or not record.endswith(b"\n") or b"=" not in record:
                self._refuse(f"it is damaged: the extended header at byte {member.offset} cannot be read")
            key, _, value = record[:-1].partition(b"=")
            fields[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
            text = text[length:]
        return fields

    def _text(self, member: _Member) -> bytes:
        if member.size > _LARGEST_TEXT:
            self._refuse(
                f"member {member.name} has {member.size} bytes; a target or extended header has at most {_LARGEST_TEXT}"
            )
        return os.pread(self.descriptor, member.size, member.offset)

    def _refuse(self, reason: str) -> NoReturn:
        raise SourceError(f"tar {self.path}: {reason}")
