"""Paths in the place of a source's spec: which source they are taken for."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from kdcache.config.spec import Spec, Value, parse_spec
from kdcache.errors import UsageError, shortened
from kdcache.sources.folder_files import IMAGE_EXTENSIONS, extension_of
from kdcache.sources.parquet_files import holds_images

TABLES = {"csv": "csv", "tsv": "csv", "parquet": "parquet"}
"""The source of a table, by the ending of its file."""
ARCHIVES = (
    "txt",
    "json",
    "jsonl",
    "arrow",
    "npy",
    "npz",
    "h5",
    "hdf5",
    "mat",
    "pkl",
    "zip",
    "lmdb",
)
"""Endings of files with data that are no source."""
FUNCTION = (
    "a function of yours that returns a data set of (image, class index) pairs: mypkg.data:build"
)
_OPTIONS = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_]*=)")
"""The comma before the options that may follow a path."""
_NEEDS_CLASSES = {"masks": "segfolder", "labels": "yolo"}
"""The source of a folder that holds a folder of this name, and does not say its classes."""


def spec_of_path(text: str, source_names: Collection[str]) -> Spec | None:
    """Return the spec that a path is taken for, with options after it if there are any; None of a
    text that is a spec.

    A table is taken for `csv` or `parquet`, a folder for `tars`, `voc`, `hf` or `imagefolder`, by
    what lies in it.

    Raises:
        UsageError: a path that is not there, or of which it cannot be told; the message says what
            to write.
    """
    path = text.strip()
    head = _OPTIONS.split(path, maxsplit=1)[0]
    if not path or path in source_names or not _is_path(head):
        return None
    options: Mapping[str, Value] = {}
    if path != head and not Path(path).exists():
        options = parse_spec(f"path:{path}").options
        path = head
    source = _taken_for(os.path.expanduser(path))  # noqa: PTH111
    return Spec(source.name, source.arg, {**source.options, **options})


def _is_path(text: str) -> bool:
    """Return whether a text is rather a path than a spec, which begins with the name of a source or
    of a module."""
    if text.startswith(("/", "./", "../", "~")):
        return True
    if ":" in text:
        return False
    path = Path(text)
    is_package = (path / "__init__.py").exists()
    has_extension = extension_of(text) in (*IMAGE_EXTENSIONS, *TABLES, *ARCHIVES, "tar")
    return (
        "/" in text
        or has_extension
        or (path.exists() and not is_package and not Path(f"{text}.py").exists())
    )


def _taken_for(path: str) -> Spec:
    """Return the spec that a path is taken for.

    Raises:
        UsageError: it is not there, or it cannot be told.
    """
    folder = Path(path)
    extension = extension_of(path)
    if extension == "tar" or "*" in path or "{" in path or any(folder.glob("*.tar")):
        return Spec("tars", path)
    if extension in ARCHIVES:
        what = "an archive is no source: unpack it to folders, or"
        if extension == "json":
            what = f"if it is of COCO's, write coco:IMAGES,annotations={path}; if not,"
        raise _unclear(path, f"{what} write {FUNCTION}")
    if extension in IMAGE_EXTENSIONS:
        way_out = "give the folder that holds one folder per class: imagefolder:FOLDER"
        raise _unclear(path, way_out)
    if not folder.exists():
        raise _unclear(path, "there is nothing: check it, or write a spec such as imagefolder:PATH")
    for name, source in _NEEDS_CLASSES.items():
        if (folder / name).is_dir():
            raise _unclear(path, f"write {source}:{path},classes=N")
    if extension == "parquet" and folder.is_file() and holds_images(path):
        return Spec("hf", "parquet", {"data_files": path})
    if extension in TABLES and folder.is_file():
        return Spec(TABLES[extension], path)
    if (folder / "JPEGImages").is_dir():
        return Spec("voc", path)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return Spec("hf", path)
    return Spec("imagefolder", path)


def _unclear(path: str, way_out: str) -> UsageError:
    return UsageError(f"source {shortened(path, 200)!r} is a path alone; {way_out}")
