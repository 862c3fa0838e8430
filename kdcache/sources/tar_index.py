"""The index of one image tar: which bytes are the image of which key, and its target.

Only headers and targets are read.
"""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kdcache.errors import SourceError
from kdcache.sources.folder_files import extension_of, is_hidden, kind_of_file, looks_like_image
from kdcache.sources.index_cache import Names, is_settled, load_arrays, save_arrays
from kdcache.sources.tar_reader import Member, TarReader

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff")

_LARGEST_TARGET = 2**31 - 1
# the key ends at the first dot of the last part, as in webdataset
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Shard:
    """One indexed tar: sample i is bytes `offsets[i]` to `offsets[i] + sizes[i]`, of class
    `targets[i]`."""

    path: str
    stamp: tuple[int, int]
    """Size and modification time in ns, when it was indexed."""
    keys: Names
    offsets: Ints
    sizes: Ints
    targets: Ints
    passed_over: "Counter[str]"
    """How many members with each extension are neither images nor targets."""


def index_tar(path: str, target: str) -> Shard:
    """Return the index of a tar, as kept under KDCACHE_HOME if the tar has not changed since.

    Args:
        path: an uncompressed tar.
        target: where a key's class index is: `cls` (member KEY.cls, its digits) or the name of an
            integer in member KEY.json.

    Raises:
        SourceError: no tar, cut short, damaged, with members that are no plain files, a key without
            image or target, or what looks like a sample and would be left out.
    """
    try:
        with Path(path).open("rb") as file:
            stat = os.fstat(file.fileno())
            stamp = (stat.st_size, stat.st_mtime_ns)
            identity = f"{target} {os.path.abspath(path)}"  # noqa: PTH100 # links keep their names
            kept = load_arrays("tars", identity)
            if kept is None or "kinds" not in kept or tuple(kept["stamp"].tolist()) != stamp:
                kept = {
                    "stamp": np.array(stamp, np.int64),
                    **_Reader(path, file.fileno(), stat.st_size).index(target),
                }
                if is_settled([stat.st_mtime_ns]):
                    save_arrays("tars", identity, kept)
    except OSError as error:
        raise SourceError(f"tar {path} cannot be read: {error.strerror or error}") from error
    passed_over = Counter(dict(zip(Names(kept["kinds"]), kept["counts"].tolist(), strict=True)))
    return Shard(
        path,
        stamp,
        Names(kept["keys"]),
        kept["offsets"],
        kept["sizes"],
        kept["targets"],
        passed_over,
    )


class _Reader:
    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self.path = path
        self._tar = TarReader(lambda position, count: os.pread(descriptor, count, position), size)
        self._passed_over: Counter[str] = Counter()

    def index(self, target: str) -> dict[str, "np.ndarray[Any, np.dtype[Any]]"]:
        """Return the arrays of a Shard."""
        try:
            return self._index(target)
        except ValueError as error:
            raise SourceError(f"tar {self.path}: {error}") from error

    def _index(self, target: str) -> dict[str, "np.ndarray[Any, np.dtype[Any]]"]:
        images, targets = self._grouped("cls" if target == "cls" else "json")
        for key in sorted(images.keys() ^ targets.keys())[:1]:
            wanted = f"image ({', '.join(IMAGES)})"
            if key in images:
                wanted = "target (KEY.cls; or target=NAME, an integer in KEY.json)"
            self._refuse(f"key {key!r} has no {wanted}; add it, or take the key out")
        if not images:
            self._refuse(f"it holds no image ({', '.join(IMAGES)})")
        return {
            "kinds": Names.of(self._passed_over).text,
            "counts": np.array(list(self._passed_over.values()), np.int64),
            "keys": Names.of(images).text,
            "offsets": np.array([image.offset for image in images.values()], np.int64),
            "sizes": np.array([image.size for image in images.values()], np.int64),
            "targets": np.array([self._target(targets[key], target) for key in images], np.int64),
        }

    def _grouped(self, suffix: str) -> tuple[dict[str, Member], dict[str, Member]]:
        """Return each key's image and the member that holds its target."""
        images: dict[str, Member] = {}
        targets: dict[str, Member] = {}
        for member in self._tar.members():
            name = member.name.removeprefix("./")
            match = _NAME.fullmatch(name)
            key, extension = (match[1], match[2].lower()) if match else ("", "")
            self._check_name(name, extension)
            if extension in IMAGES:
                group = images
            elif extension == suffix:
                group = targets
            else:
                self._passed_over[kind_of_file(name)] += 1
                continue
            if key in group:
                self._refuse(
                    f"key {key!r} comes twice: {group[key].name} and {member.name}; keep one"
                )
            group[key] = member
        return images, targets

    def _check_name(self, name: str, extension: str) -> None:
        """Refuse images in hidden folders, and those that would be left out for their extension."""
        if not looks_like_image(name):
            return
        if is_hidden(name.rpartition("/")[0]):
            self._refuse(
                f"image {name} is in a hidden folder, as editors leave them; pack the tar"
                " without it"
            )
        # a longer extension, as in KEY.depth.gif, says that it is not the image of the key
        if extension not in IMAGES and extension == extension_of(name):
            self._refuse(
                f"image {name} would be left out: images are {', '.join(IMAGES)}; convert it, or"
                " take it out"
            )

    def _target(self, member: Member, target: str) -> int:
        """Return the target that a member holds."""
        text = self._tar.text(member)
        try:
            value = _value(text, target)
        except (ValueError, KeyError, TypeError, RecursionError):
            value = None
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value <= _LARGEST_TARGET
        ):
            wanted = "an integer from 0"
            if target != "cls":
                wanted = f"an object with an integer {target!r} from 0"
            self._refuse(f"member {member.name} must hold {wanted}, not {text[:40]!r}")
        return value

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(reason)


def _value(text: bytes, target: str) -> Any:
    """Return what a target's text says: of KEY.cls, or under the name `target` in KEY.json."""
    if target != "cls":
        return json.loads(text)[target]
    return int(text) if text.strip().isdigit() else None
