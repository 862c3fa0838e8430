"""Source `segfolder`: images and masks below one folder, tied by a part of their names.

    segfolder:/data,classes=11
    segfolder:/data,images=photos/{}.jpg,masks=labels/{}_ids.png,classes=names.txt,ids=ids.csv

`{}` stands for the part that an image and its mask have in common; it may hold folders.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kdcache.errors import SourceError, UsageError
from kdcache.shapes import IGNORED
from kdcache.sources.images import decode_image
from kdcache.sources.masks import MaskSource
from kdcache.sources.protocol import Contents, Source
from kdcache.spec import Spec, build


@dataclass(frozen=True, kw_only=True)
class SegFolderOptions:
    """The options of a spec."""

    classes: int | str
    """How many, or a text file with a name on each line."""
    images: str = "images/{}.jpg"
    masks: str = "masks/{}.png"
    ids: str | None = None
    """A file of lines `id,class`, where ids are not classes; nothing after the comma where an id has no class."""

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            if getattr(self, name).count("{}") != 1:
                raise UsageError(f"segfolder: {name}={getattr(self, name)} must hold {{}} once, the part that both names share")


class SegFolder:
    """The pairs of an image and a mask below a folder."""

    def __init__(self, root: str, images: str, masks: str) -> None:
        self.root = root
        names = _names(root, images)
        self.images = [os.path.join(root, images.replace("{}", name)) for name in names]  # noqa: PTH118 # as in imagefolder
        self.masks = [os.path.join(root, masks.replace("{}", name)) for name in names]  # noqa: PTH118
        there = set(_names(root, masks))
        for name, image, mask in zip(names, self.images, self.masks, strict=True):
            if name not in there:
                raise SourceError(f"image {image} has no mask {mask}; add it, or remove the image")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return an image and its mask, as stored."""
        return _read(self.images[index]), _read(self.masks[index])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, Image.Image]:
        """Return the image and the mask that two files hold, as stored."""
        return decode_image(contents[0]), decode_image(contents[1])

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return Path(self.images[index]).read_bytes()


def open_segfolder(spec: Spec) -> Source:
    """Return the images and masks below a folder.

    Raises:
        SourceError: the folder is absent, or holds no image of that name, or one without a mask.
        UsageError: patterns without `{}`, or files of classes or ids that cannot be understood.
    """
    options = build(SegFolderOptions, spec.options, f"source {spec.name}")
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(f"segfolder {spec.arg!r} is not a folder; give the one that holds images and masks")
    names = None if isinstance(options.classes, int) else _class_names(options.classes)
    count = options.classes if isinstance(options.classes, int) else len(names or ())
    dataset = SegFolder(spec.arg, options.images, options.masks)
    if not len(dataset):
        raise SourceError(
            f"segfolder {spec.arg!r} holds no {options.images}; say how its images are called: images=photos/{{}}.png"
        )
    ids = None if options.ids is None else _ids(options.ids, count)
    return MaskSource(dataset, spec, classes=count, class_names=names, ids=ids)


def _read(path: str) -> Image.Image:
    with Path(path).open("rb") as file:
        image = Image.open(file)
        image.load()
    return image


def _names(root: str, pattern: str) -> list[str]:
    """Return what stands for `{}` in the files that the pattern names, sorted."""
    before, after = pattern.split("{}")
    base = os.path.join(root, before.rpartition("/")[0])  # noqa: PTH118
    found = []
    for folder, _, files in os.walk(base, followlinks=True):
        for file in files:
            path = os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/")  # noqa: PTH118
            if path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after):
                found.append(path[len(before) : len(path) - len(after)])
    return sorted(found)


def _class_names(path: str) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in Path(path).read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"segfolder: classes={path} is neither a number nor a text file with a name on each line") from error


def _ids(path: str, classes: int) -> dict[int, int]:
    """Return the class of each id, IGNORED for none."""
    try:
        with Path(path).open(newline="") as file:
            lines = [[field.strip() for field in line] for line in csv.reader(file) if any(field.strip() for field in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"segfolder: ids={path} cannot be read: {error}") from error
    ids = {}
    for line in lines:
        is_pair = len(line) == 2 and line[0].isdecimal() and (not line[1] or line[1].isdecimal())
        target = int(line[1] or IGNORED) if is_pair else -1
        if not is_pair or not (0 <= target < classes or target == IGNORED) or int(line[0]) > 65_535:
            raise UsageError(f"segfolder: ids={path}: {','.join(line)!r} is not ID,CLASS with a class from 0 to {classes - 1}")
        ids[int(line[0])] = target
    return ids
