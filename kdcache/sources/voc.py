"""Source `voc`: images and boxes in the layout of Pascal VOC.

    voc:/data/VOCdevkit/VOC2012
    voc:/data/VOCdevkit/VOC2007,split=test,difficult=keep
    voc:/data/mine,split=train,classes=names.txt

Objects marked as `difficult` count as crowds, where a detection is neither right nor wrong, as in
VOC's own evaluation; `difficult=keep` makes them objects like others.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

from kdcache.config.fields import build
from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import SourceError, quoted
from kdcache.runtime.text_files import read_lines
from kdcache.sources.annotation_files import checked_path, in_threads, read_annotation
from kdcache.sources.boxes import (
    ROW,
    BoxedImages,
    BoxSource,
    ObjectRows,
    SizedImages,
    SizesUse,
    require_files,
)
from kdcache.sources.class_files import read_class_names
from kdcache.sources.listings import Array
from kdcache.sources.protocol import Source

VOC_CLASSES: tuple[str, ...] = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_ANNOTATION = "voc: annotation"
_MOST_DIGITS = 9
"""Of the width of an image."""


@dataclass(frozen=True, kw_only=True)
class VocOptions:
    """The options of a spec."""

    split: str = "trainval"
    """A list in ImageSets/Main."""
    classes: str | None = None
    """A text file with a name on each line; by default VOC's 20."""
    difficult: Literal["keep", "ignore"] = "ignore"
    sizes: SizesUse = "check"
    """Whether images must have the sizes that their annotations say."""


class VocFile(NamedTuple):
    """What the annotation of an image says."""

    rows: Array
    """The objects, of dtype ROW."""
    size: tuple[int, int]
    """Width and height of the image; 0 where the file does not say it."""


class VocReader:
    """Reads the objects of images from their XML files."""

    def __init__(self, names: Sequence[str], *, ignores_difficult: bool) -> None:
        """Take the settings.

        Args:
            names: of the classes.
            ignores_difficult: whether objects that are marked so are marked as crowds.
        """
        self.names = tuple(names)
        self._classes: Mapping[str, int] = {name: index for index, name in enumerate(names)}
        self._ignores_difficult = ignores_difficult

    def read(self, path: str) -> VocFile:
        """Return what a file says.

        Raises:
            UsageError: the file cannot be read, or is no text.
            SourceError: it is no annotation of VOC's, or has an object of no class.
        """
        root = _annotation(path)
        rows = []
        for number, element in enumerate(root.findall("object"), 1):
            name = f"{_ANNOTATION} {path}: object {number}"
            rows.append(self._row(element, name))
        size = (_pixels(root, "width"), _pixels(root, "height"))
        return VocFile(np.array(rows, ROW), size)

    def _row(self, element: ElementTree.Element, name: str) -> tuple[Any, ...]:
        """Return an object as numpy takes it for dtype ROW."""
        class_name = (element.findtext("name") or "").strip()
        if class_name not in self._classes:
            raise SourceError(
                f"{name} is {quoted(class_name)}, which is none of {len(self.names)} classes,"
                f" {quoted(', '.join(self.names))}; give all names, a line each: classes=FILE"
            )
        left, upper, right, lower = _sides(element, name)
        is_difficult = (element.findtext("difficult") or "").strip() == "1"
        return (
            (left, upper, right, lower),
            self._classes[class_name],
            (right - left) * (lower - upper),
            is_difficult and self._ignores_difficult,
        )


def open_voc(spec: Spec, *, needs_targets: bool = True) -> Source:
    """Return the images of a list with their boxes.

    Args:
        spec: of the source.
        needs_targets: whether annotations are read; else no image has a box.

    Raises:
        SourceError: the folder, an image or an annotation is absent, or an annotation cannot be
            understood.
        UsageError: there is no such list, or a file of names that cannot be read.
    """
    options, root = checked_voc(spec)
    names = VOC_CLASSES
    if options.classes is not None:
        names = read_class_names(options.classes, "voc", may_be_number=False)
    reader = VocReader(names, ignores_difficult=options.difficult == "ignore")
    listed = _listed_names(root, options.split, names)
    images = [f"JPEGImages/{name}.jpg" for name in listed]
    annotations = None
    if needs_targets:
        annotations = [f"Annotations/{name}.xml" for name in listed]
    return voc_source(spec, root, images, annotations, reader, sizes=options.sizes)


def checked_voc(spec: Spec) -> tuple[VocOptions, str]:
    """Return the options and the folder of a spec.

    Raises:
        SourceError: it is no folder, or does not have VOC's layout.
        UsageError: an unknown option.
    """
    options = build(VocOptions, spec.options, f"source {spec.name}")
    return options, _checked_root(spec.arg)


def voc_source(
    spec: Spec,
    root: str,
    images: Sequence[str],
    annotations: Sequence[str] | None,
    reader: VocReader,
    *,
    sizes: SizesUse = "check",
) -> Source:
    """Return images with their boxes as a source.

    Args:
        spec: that it was opened from.
        root: a folder.
        images: their paths below it.
        annotations: the paths of their XML files below it; None if these are not to be read.
        reader: of these.
        sizes: whether images must have the sizes that these say.

    Raises:
        SourceError: an image or an annotation is absent, or an annotation cannot be understood.
        UsageError: a file that cannot be read.
    """
    where = f"voc {root!r}"
    dataset = BoxedImages(root, images, ObjectRows.none(len(images)))
    if annotations is not None:
        files = _annotation_files(root, images, annotations, where)
        dataset = _boxed(root, images, files, reader, sizes)
    require_files(dataset, images, where, "add it, or take it out of the list")
    return BoxSource(dataset, spec, classes=len(reader.names), class_names=reader.names)


def _annotation_files(
    root: str, images: Sequence[str], annotations: Sequence[str], where: str
) -> list[str]:
    """Return the paths of the annotations of images.

    Raises:
        SourceError: one is absent.
    """
    files = []
    for image, annotation in zip(images, annotations, strict=True):
        file = os.path.join(root, annotation)  # noqa: PTH118 # Path is slow on many
        if not os.path.isfile(file):  # noqa: PTH113
            raise SourceError(
                f"{where}: image {quoted(image)} has no {quoted(annotation)}; add it, or take the"
                " image out of the list"
            )
        files.append(file)
    return files


def _boxed(
    root: str, images: Sequence[str], files: Sequence[str], reader: VocReader, sizes: SizesUse
) -> SizedImages:
    """Return images with the boxes in their annotations.

    Raises:
        SourceError: an annotation cannot be understood.
        UsageError: one cannot be read.
    """
    read = list(in_threads(reader.read, files))
    objects = ObjectRows.joined(file.rows for file in read)
    stated = np.array([file.size for file in read], np.int64)
    dataset = SizedImages(root, images, objects, stated, files, uses=sizes)
    dataset.tell_boxes_beyond(f"voc {root}", "in pixels of its image")
    return dataset


def _checked_root(root: str | None) -> str:
    """Return the folder of a spec.

    Raises:
        SourceError: it is none, or does not have VOC's layout.
    """
    if root is None or not Path(root).is_dir():
        raise SourceError(
            f"voc {root!r} is not a folder; give one with JPEGImages, Annotations and ImageSets, as"
            " voc:VOCdevkit/VOC2012"
        )
    folder = Path(root)
    if (folder / "ImageSets" / "Main").is_dir():
        return root
    for pattern in ("VOC*/ImageSets/Main", "VOCdevkit/VOC*/ImageSets/Main"):
        for main_folder in sorted(folder.glob(pattern)):
            raise SourceError(
                f"voc {root!r} holds sets of several years; give one: voc:{main_folder.parents[1]}"
            )
    raise SourceError(
        f"voc {root!r} holds no ImageSets/Main; give a folder with JPEGImages/*.jpg,"
        " Annotations/*.xml and ImageSets/Main/trainval.txt"
    )


def _listed_names(root: str, split: str, class_names: Sequence[str]) -> list[str]:
    """Return the names of the images of a list, sorted.

    Raises:
        UsageError: there is no such list.
        SourceError: it is empty, or a line is no name.
    """
    folder = Path(root) / "ImageSets" / "Main"
    splits = {path.stem for path in folder.glob("[!.]*.txt")}
    if split not in splits:
        # of each class there is a list of every split as well
        of_classes = tuple(f"{name}_" for name in class_names)
        general_splits = [name for name in splits if not name.startswith(of_classes)]
        choose(split, general_splits, f"split of voc {root!r}")
    file = folder / f"{split}.txt"
    names = []
    for line in read_lines(file, "voc: split"):
        where = f"voc: split {file}, line {line.number}"
        if len(line.text.split()) != 1:
            raise SourceError(f"{where} is {quoted(line.text)}; it must be the name of an image")
        names.append(checked_path(line.text, where))
    if not names:
        raise SourceError(f"voc: split {file} is empty; write the name of an image on each line")
    return sorted(names)


def _annotation(path: str) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises:
        UsageError: the file cannot be read, or is no text.
        SourceError: it is no annotation of VOC's.
    """
    text = read_annotation(path, _ANNOTATION)
    # before it is parsed: entities may become any number of bytes
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(f"{_ANNOTATION} {path} has a DOCTYPE, which none needs; remove it")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise SourceError(f"{_ANNOTATION} {path} is no XML: {error}; mend it") from error
    if root.tag != "annotation":
        raise SourceError(
            f"{_ANNOTATION} {path} is XML of {quoted(root.tag)}; VOC's begins with <annotation>"
        )
    return root


def _pixels(root: ElementTree.Element, side: str) -> int:
    """Return the width or height that a file says of its image, 0 if it says no such number."""
    text = (root.findtext(f"size/{side}") or "").strip()
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        return 0
    return int(text)


def _sides(element: ElementTree.Element, name: str) -> tuple[float, ...]:
    """Return left, upper, right and lower side of an object; in the file the first pixel is 1, and
    the last one belongs to the box.

    Raises:
        SourceError: it has no such numbers.
    """
    numbers = []
    for side in _SIDES:
        text = element.findtext(f"bndbox/{side}")
        try:
            number = float(text or "")
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise SourceError(
                f"{name} has {side} {quoted(text)}; a bndbox must have numbers {', '.join(_SIDES)}"
            )
        numbers.append(number)
    left, upper, right, lower = numbers
    if right < left - 1 or lower < upper - 1:
        raise SourceError(
            f"{name} has xmin {left:g}, ymin {upper:g}, xmax {right:g}, ymax {lower:g}; xmax must"
            " not be below xmin, nor ymax below ymin"
        )
    return left - 1, upper - 1, right, lower
