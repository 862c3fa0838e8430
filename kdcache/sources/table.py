"""Sources `csv` and `parquet`: a table with the path of an image and its label on each line."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kdcache.config.names import choose
from kdcache.config.spec import Spec, Value
from kdcache.config.user_functions import check_options
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.runtime.images import decode_image, file_bytes, read_image
from kdcache.runtime.text_files import read_text, require_unique
from kdcache.shapes import MOST_CLASSES
from kdcache.sources.class_files import read_class_names
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.files import are_files
from kdcache.sources.parquet_files import check_columns, read_parquet
from kdcache.sources.protocol import Contents, Source
from kdcache.sources.table_labels import targets_of
from kdcache.sources.table_spec import TableSpec


class TableImages:
    """Images by their paths in a table, in their own modes, with class indices."""

    def __init__(
        self, root: str, paths: Sequence[str], targets: Sequence[int], classes: Any
    ) -> None:
        self.root = root
        self.samples = list(zip(paths, targets, strict=True))
        self.targets = list(targets)
        self.classes = classes
        """Their names in order, or their number."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, in its own mode, and its class index."""
        path, target = self.samples[index]
        return read_image(path), target

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return file_bytes(self.samples[index][0])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, int]:
        """Return the image that a file holds, in its own mode, and its class index."""
        return decode_image(contents[0]), self.samples[index][1]


def open_table(spec: Spec) -> Source:
    """Return the images that a table lists.

    Labels are class indices, or names of classes. The order of names is that of the file that
    `classes` names, else that of the alphabet (by code points).

    Raises:
        SourceError: the table is absent, empty or cannot be read, a line of it lacks a path or a
            label, or its images are not there.
        UsageError: an unknown option or column, or a label that is no class.
    """
    table = checked_table(spec)
    if table.kind == "csv":
        paths, labels, lines = _read_csv(table)
    else:
        paths, labels = read_parquet(table.path, table.columns)
        lines = list(range(1, len(paths) + 1))
    if not paths:
        raise SourceError(f"{table.kind} {table.path} lists no image; give a table with lines")
    targets, classes = targets_of(table, labels, lines)
    images = _image_paths(table, paths, lines)
    dataset = TableImages(table.root, images, targets, classes)
    return DatasetSource(dataset, spec, lists_targets=True)


def class_names_of_table(spec: Spec) -> tuple[str, ...] | None:
    """Return the names of the classes in the file that a spec names; None if it names none."""
    return checked_table(spec).class_names


def checked_table(spec: Spec) -> TableSpec:
    """Return what a spec says.

    Raises:
        SourceError: there is no such table, or no such folder of images.
        UsageError: an unknown option or column; the nearest is suggested.
    """
    check_options(_options, spec, "source")
    path = spec.arg or ""
    if not Path(path).is_file():
        raise SourceError(
            f"{spec.name} {spec.arg!r} is not a file; write {spec.name}:FILE,image=COLUMN,"
            "label=COLUMN,root=FOLDER"
        )
    table = _table_spec(spec, path)
    if not Path(table.root).is_dir():
        raise SourceError(f"{spec.name} {path}: root={table.root} is not a folder of images")
    if table.kind == "csv":
        titles = _csv_rows(path)[0][1]
        for column in table.columns:
            choose(column, titles, f"column of {path}")
    else:
        check_columns(path, table.columns)
    return table


def _options(
    *,
    image: Value = "image",
    label: Value = "label",
    root: Value = "",
    classes: Value | None = None,
) -> tuple[str, str, str, Value | None]:
    """Return the options of a spec, as texts; `classes` as it is."""
    return str(image), str(label), str(root), classes


def _table_spec(spec: Spec, path: str) -> TableSpec:
    image, label, root, classes = _options(**spec.options)
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    if isinstance(classes, int) and not isinstance(classes, bool):
        if not 1 <= classes <= MOST_CLASSES:
            raise UsageError(
                f"{spec.name}: classes={classes}; it must be a number from 1 to {MOST_CLASSES}, or"
                " a file of names"
            )
        num_classes = classes
    elif classes is not None:
        class_names = read_class_names(str(classes), spec.name)
        num_classes = len(class_names)
    folder = root or str(Path(path).parent)
    return TableSpec(spec.name, path, image, label, folder, num_classes, class_names)


def _csv_rows(path: str) -> list[tuple[int, list[str]]]:
    """Return the lines of a table that are not blank, each with its number, from 1; the first names
    the columns.

    Raises:
        SourceError: there is none, or quotes that do not fit.
    """
    delimiter = ","
    if path.lower().endswith(".tsv"):
        delimiter = "\t"
    reader = csv.reader(io.StringIO(read_text(path, "csv")), delimiter=delimiter)
    rows = []
    try:
        for fields in reader:
            if any(fields):
                rows.append((reader.line_num, fields))
    except csv.Error as error:
        raise SourceError(
            f"csv {path}, line {reader.line_num}: {error}; close each quote, and put a"
            " field that holds a comma, a quote or the end of a line in quotes"
        ) from error
    if not rows:
        raise SourceError(f"csv {path} is empty; its first line must name the columns")
    return rows


def _read_csv(table: TableSpec) -> tuple[list[Any], list[Any], list[int]]:
    """Return the paths, the labels and the numbers of the lines."""
    (_, titles), *rows = _csv_rows(table.path)
    image_place = titles.index(table.image)
    label_place = titles.index(table.label)
    paths: list[Any] = []
    labels: list[Any] = []
    lines = []
    for line, fields in rows:
        if len(fields) != len(titles):
            raise SourceError(
                f"csv {table.path}, line {line} has {len(fields)} fields, and the first line"
                f" {len(titles)}; close each quote, and put fields that hold a comma in quotes"
            )
        paths.append(fields[image_place])
        labels.append(fields[label_place])
        lines.append(line)
    return paths, labels, lines


def _image_paths(table: TableSpec, paths: Sequence[Any], lines: Sequence[int]) -> list[str]:
    """Return the paths of the images below the folder; those that begin with / stay.

    Raises:
        SourceError: a line has none, or none of those that are looked at is there.
        UsageError: two lines have the same.
    """
    joined: list[str] = []
    for path, line in zip(paths, lines, strict=True):
        if not isinstance(path, str) or not path:
            raise SourceError(
                f"{table.place(line)} has {quoted(path)} as {table.image}, not"
                " the path of an image; give image=COLUMN"
            )
        joined.append(os.path.join(table.root, path))  # noqa: PTH118 # Path is slow on a million
    normal_paths = map(os.path.normpath, joined)
    require_unique(zip(lines, normal_paths, strict=True), f"{table.kind} {table.path}")
    if not are_files(joined):
        raise SourceError(
            f"{table.kind} {table.path}: there is no image {joined[0]}, nor any other that was"
            " looked at; give root=FOLDER, below which the paths lie"
        )
    return joined
