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
from kdcache.sources.index_cache import Arrays, Names, is_settled, load_arrays, save_arrays
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
            arrays = _index_arrays(path, file.fileno(), target)
    except OSError as error:
        raise SourceError(f"tar {path} cannot be read: {error.strerror or error}") from error
    size, mtime = arrays["stamp"].tolist()
    passed_over = zip(Names(arrays["kinds"]), arrays["counts"].tolist(), strict=True)
    return Shard(
        path,
        (size, mtime),
        Names(arrays["keys"]),
        arrays["offsets"],
        arrays["sizes"],
        arrays["targets"],
        Counter(dict(passed_over)),
    )


def _index_arrays(path: str, descriptor: int, target: str) -> Arrays:
    """Return the arrays of a tar's index, the kept ones if the tar has not changed since."""
    stat = os.fstat(descriptor)
    stamp = (stat.st_size, stat.st_mtime_ns)
    identity = f"{target} {os.path.abspath(path)}"  # noqa: PTH100 # links keep their names
    arrays = load_arrays("tars", identity)
    if arrays is not None and "kinds" in arrays and tuple(arrays["stamp"].tolist()) == stamp:
        return arrays
    reader = _Reader(path, descriptor, stat.st_size)
    arrays = {"stamp": np.array(stamp, np.int64), **reader.index(target)}
    if is_settled([stat.st_mtime_ns]):
        save_arrays("tars", identity, arrays)
    return arrays


class _Reader:
    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self.path = path
        self._tar = TarReader(lambda position, count: os.pread(descriptor, count, position), size)
        self._passed_over: Counter[str] = Counter()

    def index(self, target: str) -> Arrays:
        """Return the arrays of a Shard."""
        try:
            return self._index(target)
        except ValueError as error:
            raise SourceError(f"tar {self.path}: {error}") from error

    def _index(self, target: str) -> Arrays:
        images, targets = self._grouped("cls" if target == "cls" else "json")
        lacking = images.keys() ^ targets.keys()
        if lacking:
            key = min(lacking)
            part = f"image ({', '.join(IMAGES)})"
            if key in images:
                part = "target (KEY.cls; or target=NAME, an integer in KEY.json)"
            self._refuse(f"key {key!r} has no {part}; add it, or take the key out")
        if not images:
            self._refuse(f"it holds no image ({', '.join(IMAGES)})")
        offsets = []
        sizes = []
        classes = []
        for key, image in images.items():
            offsets.append(image.offset)
            sizes.append(image.size)
            classes.append(self._target(targets[key], target))
        return {
            "kinds": Names.of(self._passed_over).text,
            "counts": np.array(list(self._passed_over.values()), np.int64),
            "keys": Names.of(images).text,
            "offsets": np.array(offsets, np.int64),
            "sizes": np.array(sizes, np.int64),
            "targets": np.array(classes, np.int64),
        }

    def _grouped(self, suffix: str) -> tuple[dict[str, Member], dict[str, Member]]:
        """Return each key's image and the member that holds its target."""
        images: dict[str, Member] = {}
        targets: dict[str, Member] = {}
        for member in self._tar.members():
            name = member.name.removeprefix("./")
            key = ""
            extension = ""
            if match := _NAME.fullmatch(name):
                key = match[1]
                extension = match[2].lower()
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
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not 0 <= value <= _LARGEST_TARGET:
            content = "an integer from 0"
            if target != "cls":
                content = f"an object with an integer {target!r} from 0"
            self._refuse(f"member {member.name} must hold {content}, not {text[:40]!r}")
        index: int = value
        return index

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(reason)


def _value(text: bytes, target: str) -> Any:
    """Return what a target's text says: of KEY.cls, or under the name `target` in KEY.json."""
    if target != "cls":
        return json.loads(text)[target]
    if not text.strip().isdigit():
        return None
    return int(text)
