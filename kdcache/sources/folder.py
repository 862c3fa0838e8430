"""Source `imagefolder`: one folder per class, as torchvision's ImageFolder lists it; the list of a large one is kept."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdcache.errors import SourceError, UsageError
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.images import decode_image, to_mode
from kdcache.sources.kept import Names, is_settled, load_arrays, save_arrays
from kdcache.sources.protocol import Contents, Source
from kdcache.spec import Spec

NUM_KEPT = 5_000
"""The list of a folder with fewer images is not kept."""

Listing = list[tuple[str, int]]


class ImageFolder(datasets.ImageFolder):  # type: ignore[misc] # the name is part of the fingerprint
    """torchvision's ImageFolder, with a list that is kept and images deeper than 8 bits scaled instead of clipped."""

    def __init__(self, root: str) -> None:
        super().__init__(root, loader=_read_rgb)

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return Path(self.samples[index][0]).read_bytes()

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, int]:
        """Return the image, RGB, that a file holds, and its class index."""
        return to_mode(decode_image(contents[0]), "RGB"), self.samples[index][1]

    @staticmethod
    def make_dataset(directory: str, class_to_idx: dict[str, int], **options: Any) -> Listing:
        """Return the (path, class index) pairs, sorted.

        Raises:
            FileNotFoundError: a class folder holds no image.
        """
        listing = list_images(directory, class_to_idx)
        if len({target for _, target in listing}) < len(class_to_idx):
            return datasets.ImageFolder.make_dataset(directory, class_to_idx, **options)  # type: ignore[no-any-return] # says which
        return listing


def open_imagefolder(spec: Spec) -> Source:
    """Return the images below a folder that holds one folder per class.

    Raises:
        SourceError: the folder is absent, cannot be listed, or holds no class folders or a class without images.
    """
    if spec.options:
        raise UsageError(f"source imagefolder takes a path and no options, not {', '.join(spec.options)}")
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(f"imagefolder {spec.arg!r} is not a folder; give one that holds one folder per class")
    try:
        return DatasetSource(ImageFolder(spec.arg), spec)
    except OSError as error:
        raise SourceError(f"imagefolder {spec.arg!r}: {' '.join(str(error).split())}") from error


def list_images(root: str, classes: dict[str, int]) -> Listing:
    """Return the (path, class index) pairs of the images below the class folders, sorted as torchvision does.

    A list of NUM_KEPT or more is kept. It is used again while the modification times of the root, the class folders and all
    folders below them are unchanged: a file that comes, goes or changes its name is noticed. A file that is overwritten is not,
    nor need it be: the list holds names.

    Raises:
        OSError: a folder cannot be listed.
    """
    identity = f"{os.path.abspath(root)} {IMG_EXTENSIONS}"  # noqa: PTH100 # links keep their names
    kept = load_arrays("listings", identity)
    if kept is not None and np.array_equal(_stamps(root, Names(kept["folders"])), kept["stamps"]):
        paths = (os.path.join(root, name) for name in Names(kept["names"]))  # noqa: PTH118
        return list(zip(paths, kept["targets"].tolist(), strict=True))
    folders, listing = _walk(root, classes)
    stamps = _stamps(root, folders)
    if len(listing) >= NUM_KEPT and is_settled(stamps.tolist()):
        names = Names.of(path.removeprefix(os.path.join(root, "")) for path, _ in listing)  # noqa: PTH118
        targets = np.array([target for _, target in listing], np.int32)
        save_arrays("listings", identity, {"folders": folders.text, "stamps": stamps, "names": names.text, "targets": targets})
    return listing


def _walk(root: str, classes: dict[str, int]) -> tuple[Names, Listing]:
    folders, listing = ["."], []
    for name in sorted(classes):
        found = os.walk(os.path.join(root, name), followlinks=True, onerror=_raise)  # noqa: PTH118 # Path is slow on a million
        for folder, _, files in sorted(found):
            folders.append(folder.removeprefix(os.path.join(root, "")))  # noqa: PTH118
            images = [file for file in sorted(files) if file.lower().endswith(IMG_EXTENSIONS)]
            listing += [(os.path.join(folder, file), classes[name]) for file in images]  # noqa: PTH118
    return Names.of(folders), listing


def _stamps(root: str, folders: Names) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return each folder's modification time in ns, of one that is gone -1."""
    stamps = []
    for folder in folders:
        try:
            stamps.append(os.stat(os.path.join(root, folder)).st_mtime_ns)  # noqa: PTH116, PTH118
        except OSError:
            stamps.append(-1)
    return np.array(stamps, np.int64)


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave the folder out


def _read_rgb(path: str) -> Image.Image:
    with Path(path).open("rb") as file:
        image = Image.open(file)
        image.load()
    return to_mode(image, "RGB")
