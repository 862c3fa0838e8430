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
FUNCTION = (
    "a function of yours that returns a data set of (image, class index) pairs: mypkg.data:build"
)
_ARCHIVE = f"an archive is no source; unpack it to folders, or give {FUNCTION}"
_ARRAYS = f"a file of arrays is no source; give {FUNCTION}"
_LIST = (
    "a list is no source; make it a table, a .csv file with the columns image and label, or give"
    f" {FUNCTION}"
)
_SAVED = "a part of a data set is no source; give the folder that `datasets` saved"
NO_SOURCES = {
    **dict.fromkeys(("zip", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar"), _ARCHIVE),
    **dict.fromkeys(("txt", "json", "jsonl"), _LIST),
    **dict.fromkeys(("npy", "npz", "h5", "hdf5", "mat", "pkl", "lmdb"), _ARRAYS),
    "arrow": _SAVED,
}
"""Endings of files with data that are no source; for each of them why, and what helps."""
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
    has_extension = extension_of(text) in (*IMAGE_EXTENSIONS, *TABLES, *NO_SOURCES, "tar")
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
    if Path(path).is_dir():
        return _taken_for_folder(path)
    extension = extension_of(path)
    is_pattern = not Path(path).exists() and ("*" in path or "{" in path)
    if extension == "tar" or is_pattern:
        return Spec("tars", path)
    _require_source(path, extension)
    if not Path(path).exists():
        way_out = "check the path, or write a spec such as imagefolder:PATH"
        raise _unclear(path, f"there is no such file or folder; {way_out}")
    if extension == "parquet" and holds_images(path):
        return Spec("hf", "parquet", {"data_files": path})
    if extension in TABLES:
        return Spec(TABLES[extension], path)
    kinds = ", ".join(f".{ending}" for ending in (*TABLES, "tar"))
    raise _unclear(path, f"the file is none of {kinds}; give one of these, or a folder")


def _require_source(path: str, extension: str) -> None:
    """Raise a UsageError if files of this ending are no source."""
    if extension in IMAGE_EXTENSIONS:
        raise _unclear(
            path,
            "a single image is no source; give the folder that holds one folder per class:"
            " imagefolder:FOLDER",
        )
    if extension == "json":
        coco = f"a file of COCO's is written coco:IMAGES,annotations={path}"
        raise _unclear(path, f"{coco}; of others, {NO_SOURCES[extension]}")
    if extension in NO_SOURCES:
        raise _unclear(path, NO_SOURCES[extension])


def _taken_for_folder(path: str) -> Spec:
    """Return the spec that a folder is taken for, by what lies in it.

    Raises:
        UsageError: it cannot be told.
    """
    folder = Path(path)
    if any(folder.glob("*.tar")):
        return Spec("tars", path)
    for name, source in _NEEDS_CLASSES.items():
        if (folder / name).is_dir() and not _is_class_folder(folder, name):
            raise _unclear(
                path,
                f"it holds a folder {name}, and its classes are not stated; write"
                f" {source}:{path},classes=N, or imagefolder:{path} if {name} is a class",
            )
    if (folder / "JPEGImages").is_dir():
        return Spec("voc", path)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return Spec("hf", path)
    return Spec("imagefolder", path)


def _is_class_folder(folder: Path, name: str) -> bool:
    """Return whether the folder of this name in a folder is rather one of its classes: two others
    or more lie beside it, and none of them is `images`."""
    beside = []
    for entry in folder.glob("*"):
        is_other = entry.name != name and not entry.name.startswith(".")
        if is_other and entry.is_dir():
            beside.append(entry.name)
    return len(beside) > 1 and "images" not in beside


def _unclear(path: str, message: str) -> UsageError:
    return UsageError(f"source {shortened(path, 200)!r}: {message}")
