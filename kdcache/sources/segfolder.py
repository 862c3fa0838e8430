"""Source `segfolder`: images and masks below one folder, tied by a part of their names.

    segfolder:/data,classes=11
    segfolder:/data,images=photos/{}.jpg,masks=labels/{}_ids.png,classes=names.txt,ids=ids.csv

`{}` stands for the part that an image and its mask have in common; it may hold folders.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kdcache.config.spec import Spec, build
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.images import decode_image, file_bytes, read_image
from kdcache.runtime.text_files import read_columns, read_lines, require_unique
from kdcache.shapes import IGNORED
from kdcache.sources.folder_files import (
    FolderWalk,
    and_more,
    count_kinds,
    is_hidden,
    looks_like_image,
    tell_passed_over,
)
from kdcache.sources.imagefolder import are_splits
from kdcache.sources.masks import LARGEST_ID, NOT_LOSSY, MaskSource, about_mask
from kdcache.sources.protocol import Contents, Source

_NO_CLASS = ("void", "ignore", "none")


@dataclass(frozen=True, kw_only=True)
class SegFolderOptions:
    """The options of a spec."""

    classes: int | str
    """How many, or a text file with a name on each line."""
    images: str = "images/{}.jpg"
    masks: str = "masks/{}.png"
    ids: str | None = None
    """A file of lines `id,class`, where ids are not classes; the class by number or name, 255 or
    nothing for none."""

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            if getattr(self, name).count("{}") != 1:
                raise UsageError(
                    f"segfolder: {name}={getattr(self, name)} must hold {{}} once, the part that"
                    " both names share"
                )
        if self.masks.lower().endswith((".jpg", ".jpeg")):
            raise UsageError(f"segfolder: masks={self.masks} are JPEGs; {NOT_LOSSY}")


class SegFolder:
    """The pairs of an image and a mask below a folder."""

    def __init__(self, root: str, images: str, masks: str) -> None:
        """List the pairs.

        Raises:
            SourceError: an image without a mask or the other way round, or what looks like either
                and is neither.
        """
        self.root = root
        pairs = _Pairs(root, _Pattern(images), _Pattern(masks))
        pairs.check()
        names = sorted(pairs.images)
        self.images = [os.path.join(root, images.replace("{}", name)) for name in names]  # noqa: PTH118 # as in imagefolder
        self.masks = [os.path.join(root, masks.replace("{}", name)) for name in names]  # noqa: PTH118
        self.passed_over = count_kinds(pairs.others)
        """Number of files that are neither, by extension."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return an image and its mask, as stored."""
        image = read_image(self.images[index])
        with about_mask(self.masks[index]):
            return image, read_image(self.masks[index])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, Image.Image]:
        """Return the image and the mask that two files hold, as stored."""
        image = decode_image(contents[0])
        with about_mask(self.masks[index]):
            return image, decode_image(contents[1])

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return file_bytes(self.images[index])


class _Pattern:
    """`before{}after`, as a path below a folder."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._before, self._after = text.split("{}")
        self.folder = self._before.rpartition("/")[0]
        self._stem, _, self._extension = self._after.rpartition(".")

    def path(self, name: str) -> str:
        """Return the path of the file of this name."""
        return f"{self._before}{name}{self._after}"

    def name(self, path: str) -> str | None:
        """Return what stands for `{}` in a path; None if it does not fit."""
        is_longer = len(path) > len(self._before) + len(self._after)
        if not (is_longer and path.startswith(self._before) and path.endswith(self._after)):
            return None
        return path[len(self._before) : len(path) - len(self._after)]

    def almost(self, path: str) -> str | None:
        """Return what would stand for `{}` if the path of an image had this pattern's extension, in
        its case."""
        stem, _, _ = path.rpartition(".")
        ending = self._stem.lower()
        fits = (
            path.startswith(self._before)
            and stem.lower().endswith(ending)
            and looks_like_image(path)
        )
        name = stem[len(self._before) : len(stem) - len(ending)] if fits else ""
        return name or None


class _Pairs:
    """What two patterns find below a folder."""

    def __init__(self, root: str, images: _Pattern, masks: _Pattern) -> None:
        self._root = root
        self._patterns = (images, masks)
        image_files, mask_files = (_files(root, pattern) for pattern in self._patterns)
        self.images = _named(image_files, images)
        self._masks = _named(mask_files, masks)
        taken = {*self.images.values(), *self._masks.values()}
        self.others = sorted({*image_files, *mask_files} - taken)
        """Files that are neither."""

    def check(self) -> None:
        """Check that each image has its mask, and each mask its image, and that none is left out
        for its name.

        Raises:
            SourceError: one has not, or is.
        """
        for path in sorted([*self.images.values(), *self._masks.values()]):
            if is_hidden(path):
                raise SourceError(
                    f"segfolder {self._root!r}: {path} is hidden, as editors and systems leave"
                    " files; remove it"
                )
        if not self.images:
            return
        images, masks = self._patterns
        self._check_partners("image", self.images, "mask", masks, self._masks)
        self._check_partners("mask", self._masks, "image", images, self.images)
        if not _share_folder(images.folder, masks.folder):
            self._check_unlisted()

    def _check_partners(
        self,
        kind: str,
        paths: dict[str, str],
        other_kind: str,
        pattern: _Pattern,
        partners: dict[str, str],
    ) -> None:
        lacking = sorted(paths.keys() - partners.keys())
        if not lacking:
            return
        name = lacking[0]
        near = next((path for path in self.others if pattern.almost(path) == name), None)
        way_out = f"add it, or remove the {kind}"
        if near is not None:
            way_out = (
                f"{near} is there, and the pattern is {pattern.text}: rename it, or convert it"
            )
        raise SourceError(
            f"segfolder {self._root!r}: {kind} {paths[name]}{and_more(len(lacking))} has no"
            f" {other_kind} {pattern.path(name)}; {way_out}"
        )

    def _check_unlisted(self) -> None:
        """Refuse images that are left out for their extension, in folders that hold nothing but
        images or masks."""
        for pattern in self._patterns:
            unlisted = [path for path in self.others if pattern.almost(path) is not None]
            if unlisted:
                raise SourceError(
                    f"segfolder {self._root!r}: {unlisted[0]} would be left"
                    f" out{and_more(len(unlisted))}, the pattern is {pattern.text}; rename or"
                    " convert it, or move it out of the folder"
                )


def open_segfolder(spec: Spec) -> Source:
    """Return the images and masks below a folder.

    Raises:
        SourceError: the folder is absent, or holds no image of that name, an image or a mask
            without the other, or what looks like one and would be left out.
        UsageError: patterns without `{}`, or files of classes or ids that cannot be understood.
    """
    example = f"{spec.name}:{spec.arg or 'PATH'},classes=19"
    needed = f"classes, the number of them or a file with their names; write {example}"
    options = build(SegFolderOptions, spec.options, f"source {spec.name}", called=lambda _: needed)
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(
            f"segfolder {spec.arg!r} is not a folder; give the one that holds images and masks"
        )
    names = None if isinstance(options.classes, int) else _class_names(options.classes)
    count = options.classes if isinstance(options.classes, int) else len(names or ())
    ids = None if options.ids is None else _ids(options.ids, count, names)
    try:
        dataset = SegFolder(spec.arg, options.images, options.masks)
    except OSError as error:
        raise SourceError(f"segfolder {spec.arg!r}: {' '.join(str(error).split())}") from error
    if not len(dataset):
        raise SourceError(
            f"segfolder {spec.arg!r} holds no {options.images}; say how its images are called:"
            " images=photos/{}.png"
        )
    name = f"segfolder {spec.arg}"
    tell_passed_over(name, dataset.passed_over, "neither images nor masks")
    _tell_splits(name, spec.arg, options, dataset.images)
    return MaskSource(
        dataset, spec, classes=count, class_names=names, ids=ids, ids_hint=_ids_hint(options.ids)
    )


def _tell_splits(name: str, root: str, options: SegFolderOptions, paths: list[str]) -> None:
    """Say that the images are of train and val together, if their folders are called so."""
    base = os.path.join(root, _Pattern(options.images).folder, "")  # noqa: PTH118
    folders = {path.removeprefix(base).partition("/")[0] for path in paths}
    if are_splits(folders):
        last = sorted(folders)[-1]
        images, masks = (
            text.replace("{}", f"{last}/{{}}") for text in (options.images, options.masks)
        )
        say(
            f"note: {name} takes the images of {', '.join(sorted(folders))} together; if these are"
            f" parts of the data, name one of them: images={images},masks={masks}"
        )


def _ids_hint(path: str | None) -> str:
    if path is None:
        return (
            "give the right number of classes, or ids=FILE with lines ID,CLASS: `{},255` is an id"
            " without a class"
        )
    return f"add a line to {path}: `{{}},255` if it has no class"


def _files(root: str, pattern: _Pattern) -> list[str]:
    """Return the files in the folder of a pattern, as paths below the root with `/`."""
    base = os.path.join(root, pattern.folder)  # noqa: PTH118
    if not os.path.isdir(base):  # noqa: PTH112
        return []
    paths = []
    for folder, files in FolderWalk().folders(base):
        place = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if place == "." else f"{place}/"
        paths += [prefix + file for file in files]
    return paths


def _named(paths: list[str], pattern: _Pattern) -> dict[str, str]:
    """Return the files that fit a pattern, by what stands for `{}`."""
    named = {}
    for path in paths:
        name = pattern.name(path)
        if name is not None:
            named[name] = path
    return named


def _share_folder(one: str, other: str) -> bool:
    """Return whether one of two folders is the other, or in it."""
    parts = [folder.split("/") if folder else [] for folder in (one, other)]
    common = min(map(len, parts))
    return parts[0][:common] == parts[1][:common]


def _class_names(path: str) -> tuple[str, ...]:
    if not Path(path).is_file():
        raise UsageError(
            f"segfolder: classes={path} is neither a number nor a text file with a name on each"
            " line"
        )
    names = tuple(line.text for line in read_lines(path, "segfolder: classes ="))
    if not names:
        raise UsageError(f"segfolder: classes={path} is an empty file; write a class on each line")
    return names


def _ids(path: str, classes: int, names: Sequence[str] | None) -> dict[int, int]:
    """Return the class of each id, IGNORED for none.

    Raises:
        UsageError: no such file, a line of another form, or an id twice.
    """
    what = "segfolder: ids ="
    numbers = {name: index for index, name in enumerate(names or ())}
    ids = {}
    lines = read_columns(path, what, {*numbers, *_NO_CLASS})
    require_unique(
        [(line.number, line.fields[0].lstrip("0") or "0") for line in lines], f"{what} {path}"
    )
    for line in lines:
        is_pair = (
            len(line.fields) == 2
            and line.fields[0].isdecimal()
            and int(line.fields[0]) <= LARGEST_ID
        )
        target = _class_of(line.fields[1], numbers) if is_pair else None
        if target is None or not (target < classes or target == IGNORED):
            by_name = ", or its name" if numbers else ""
            raise UsageError(
                f"{what} {path}, line {line.number}: {line.text!r} is not ID,CLASS: an id from 0 to"
                f" {LARGEST_ID} and a class from 0 to {classes - 1}{by_name}, or {IGNORED}, void or"
                " nothing for an id without a class"
            )
        ids[int(line.fields[0])] = target
    return ids


def _class_of(text: str, numbers: Mapping[str, int]) -> int | None:
    if text in numbers:
        return numbers[text]
    if not text or text.lower() in _NO_CLASS:
        return IGNORED
    return int(text) if text.isdecimal() else None
