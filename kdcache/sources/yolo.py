"""Source `yolo`: images, and a text file of boxes for each, in the layout of YOLO.

    yolo:/data/coco,classes=names.txt
    yolo:/data/coco,classes=80,split=val

`images/train/x.jpg` has its boxes in `labels/train/x.txt`, a line each: the class, and the centre
(x, y), width and height as shares of the image. An image without such a file shows no object.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.fields import build
from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.deferred import torch
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.sources.annotation_files import in_threads, read_annotation
from kdcache.sources.boxes import ROW, BoxedImages, BoxSource, ObjectRows
from kdcache.sources.class_files import read_class_names
from kdcache.sources.folder_files import (
    IMG_EXTENSIONS,
    count_kinds,
    files_below,
    is_hidden,
    looks_like_image,
    not_listed,
    tell_passed_over,
)
from kdcache.sources.listings import Array
from kdcache.sources.protocol import Source
from kdcache.targets.objects import ObjectBoxes

_ORIENTATION = 0x0112  # of EXIF
_UPRIGHT = (0, 1)
_ROUNDING = 0.01
_LINE = "class, x and y of the centre, width, height"


@dataclass(frozen=True, kw_only=True)
class YoloOptions:
    """The options of a spec."""

    classes: int | str
    """How many, or a text file with a name on each line."""
    split: str = "train"
    """A folder in `images`."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, int) and self.classes < 1:
            raise UsageError(f"yolo: classes={self.classes} must be at least 1")
        if str(self.classes).endswith((".yaml", ".yml")):
            raise UsageError(
                f"yolo: classes={self.classes} is YAML, which kdcache does not read; write its"
                " names into a text file, a line each, in the order of their numbers"
            )


class YoloImages(BoxedImages):
    """Images whose boxes are shares of them."""

    kind = "YoloImages"

    def objects_in(self, image: Image.Image, index: int) -> ObjectBoxes:
        """Return the objects of an image, in pixels.

        Raises:
            SourceError: viewers, and YOLO, turn the image, which kdcache does not.
        """
        orientation = _orientation(image)
        if orientation not in _UPRIGHT:
            raise SourceError(
                f"image {self.images[index]} is to be turned before it is shown (EXIF orientation"
                f" {orientation}), so that its boxes are of the turned one; save it upright, as"
                " with: mogrify -auto-orient"
            )
        objects = self.objects.of(index)
        width, height = image.size
        sides = torch.tensor([width, height, width, height], dtype=torch.float32)
        return replace(objects, boxes=objects.boxes * sides, areas=objects.areas * (width * height))


def open_yolo(spec: Spec, *, needs_targets: bool = True) -> Source:
    """Return the images of a split with their boxes.

    Args:
        spec: of the source.
        needs_targets: whether labels are looked at; else no image has a box.

    Raises:
        SourceError: the folder is absent or has no images, no image has labels, an image would be
            left out, or a line of labels is no box.
        UsageError: there is no such split, no classes are given, or a file cannot be read.
    """
    options, names, root = checked_yolo(spec)
    folders = [path.name for path in (Path(root) / "images").iterdir() if path.is_dir()]
    split = choose(options.split, folders, f"split of yolo {root!r}")
    classes = options.classes
    if not isinstance(classes, int):
        classes = len(names)
    if needs_targets:
        images, labels = _listed(root, split)
        reader = partial(_rows_of, root, classes)
        objects = ObjectRows.joined(in_threads(reader, labels))
    else:
        images, others = _listed_images(root, split)
        tell_passed_over(f"yolo {root}", count_kinds(others), "no images")
        objects = ObjectRows.none(len(images))
    dataset = YoloImages(root, images, objects)
    return BoxSource(dataset, spec, classes=classes, class_names=names or None)


def checked_yolo(spec: Spec) -> tuple[YoloOptions, tuple[str, ...], str]:
    """Return the options of a spec, the names of classes if there is a file of them, and the
    folder.

    Raises:
        SourceError: it is no folder, or holds no images.
        UsageError: an unknown option, no classes are given, or their file cannot be read.
    """
    example = f"{spec.name}:{spec.arg or 'PATH'},classes=80"
    wish = f"classes, the number of them or a file with their names; write {example}"
    options = build(YoloOptions, spec.options, f"source {spec.name}", called=lambda _: wish)
    names: tuple[str, ...] = ()
    if not isinstance(options.classes, int):
        names = read_class_names(options.classes, "yolo")
    root = spec.arg
    if root is None or not (Path(root) / "images").is_dir():
        raise SourceError(
            f"yolo {root!r} is no folder with images in it; give one with images/train/*.jpg and"
            " labels/train/*.txt"
        )
    return options, names, root


def _listed(root: str, split: str) -> tuple[list[str], list[str | None]]:
    """Return the images of a split, sorted, and the files of their labels, None where there is
    none; as paths below the root.

    Raises:
        SourceError: there is no image, none has labels, or one would be left out.
    """
    where = f"yolo {root!r}"
    images, others = _listed_images(root, split)
    label_files = set(_files_below(root, f"labels/{split}", where))
    labels: list[str | None] = []
    for image in images:
        name: str | None = _label_file(image)
        if name not in label_files:
            name = None
        labels.append(name)
    if not any(labels):
        raise SourceError(
            f"{where}: none of {len(images)} images has labels; those of {quoted(images[0])} would"
            f" be {quoted(_label_file(images[0]))}"
        )
    others = (others | label_files) - {*labels}
    tell_passed_over(f"yolo {root}", count_kinds(others), "no images and no labels of one")
    return images, labels


def _listed_images(root: str, split: str) -> tuple[list[str], set[str]]:
    """Return the images of a split, sorted, and what lies among them; as paths below the root.

    Raises:
        SourceError: there is no image, or one would be left out.
    """
    where = f"yolo {root!r}"
    files = _files_below(root, f"images/{split}", where)
    images = [path for path in sorted(files) if _is_image(path, where)]
    if not images:
        raise SourceError(
            f"{where}: images/{split} holds no image ({' '.join(IMG_EXTENSIONS)}); put some there"
        )
    return images, set(files).difference(images)


def _files_below(root: str, folder: str, where: str) -> list[str]:
    """Return the files below a folder, as paths below the root.

    Raises:
        SourceError: they cannot be listed.
    """
    try:
        return files_below(root, folder)
    except OSError as error:
        raise not_listed(where, error) from error


def _is_image(path: str, where: str) -> bool:
    """Return whether a file is an image.

    Raises:
        SourceError: it is hidden, or would be left out for its extension.
    """
    if not looks_like_image(path):
        return False
    if is_hidden(path):
        raise SourceError(
            f"{where}: {path} is hidden, as editors and systems leave files; remove it"
        )
    if not path.lower().endswith(IMG_EXTENSIONS):
        raise SourceError(
            f"{where}: {path} would be left out: yolo takes {' '.join(IMG_EXTENSIONS)}; convert it"
            " to PNG, or move it out of the folder"
        )
    return True


def _label_file(image: str) -> str:
    """Return the path of the labels of an image."""
    stem, _, _ = image.removeprefix("images/").rpartition(".")
    return f"labels/{stem}.txt"


def _rows_of(root: str, classes: int, name: str | None) -> Array:
    """Return the objects in a file of labels, with shares for sides and areas, of dtype ROW.

    Raises:
        UsageError: the file cannot be read, or is no text.
        SourceError: a line is no box.
    """
    rows = []
    if name is not None:
        path = os.path.join(root, name)  # noqa: PTH118 # Path is slow on many
        text = read_annotation(path, "yolo: labels")
        for number, line in enumerate(text.split("\n"), 1):
            fields = line.split()
            if fields:
                rows.append(_row(fields, classes, f"yolo: labels {path}, line {number}"))
    return np.array(rows, ROW)


def _row(fields: list[str], classes: int, where: str) -> tuple[Any, ...]:
    """Return a line of labels as numpy takes it for dtype ROW.

    Raises:
        SourceError: it is no box, or of no class.
    """
    if len(fields) > 5:
        raise SourceError(
            f"{where} has {len(fields)} numbers, as outlines and keypoints have; boxes have 5:"
            f" {_LINE}; convert it to a box"
        )
    line = quoted(" ".join(fields))
    try:
        number, *shares = map(float, fields)
        x, y, width, height = shares
    except ValueError as error:
        raise SourceError(f"{where} is {line}; it must be {_LINE}") from error
    is_class = 0 <= number < classes and number == int(number)
    if not is_class:
        raise SourceError(
            f"{where} is {line}, of class {fields[0]}; known are 0 to {classes - 1}: give the right"
            " classes=, or mend the line"
        )
    if not all(map(_is_share, shares)):
        raise SourceError(
            f"{where} is {line}; centre, width and height must be shares of the image from 0 to 1,"
            " not pixels"
        )
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return box, int(number), width * height, False


def _is_share(number: float) -> bool:
    return -_ROUNDING <= number <= 1 + _ROUNDING  # a NaN is none


def _orientation(image: Image.Image) -> int:
    """Return how an image is to be turned before it is shown, as EXIF says it; 1 is not at all."""
    with suppress(Exception):  # damaged EXIF makes Pillow raise anything, and no viewer turns by it
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1
