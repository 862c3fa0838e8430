"""Source `imagefolder`: one folder per class, as torchvision's ImageFolder lists it; the list of a
large one is kept."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.images import decode_image, file_bytes, read_image, to_mode
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.folder_files import (
    IMG_EXTENSIONS,
    FolderWalk,
    and_more,
    count_kinds,
    image_names,
    is_hidden,
    not_listed,
    tell_passed_over,
)
from kdcache.sources.index_cache import Arrays, Names, is_settled, load_arrays, save_arrays
from kdcache.sources.protocol import Contents, Source

NUM_KEPT = 5_000
"""The list of a folder with fewer images is not kept."""
_HELD_OUT = {"val", "valid", "validation", "test", "testing", "dev", "eval"}
_TRAINING = {"train", "training"}

Listing = list[tuple[str, int]]


class ImageFolder:
    """The images below a folder of class folders, with the samples of torchvision's ImageFolder:
    its name is part of the fingerprint.

    The list is kept, and images deeper than 8 bits are scaled instead of clipped.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.classes, beside = _class_folders(root)
        self.samples, among = _samples(root, self.classes)
        """(path, class index) of each image, sorted."""
        self.passed_over = beside + among
        """Number of files that are no images, by extension."""
        self.targets = [target for _, target in self.samples]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, RGB, and its class index."""
        path, target = self.samples[index]
        return _read_rgb(path), target

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return file_bytes(self.samples[index][0])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, int]:
        """Return the image, RGB, that a file holds, and its class index."""
        return to_mode(decode_image(contents[0]), "RGB"), self.samples[index][1]


def open_imagefolder(spec: Spec) -> Source:
    """Return the images below a folder that holds one folder per class.

    Raises:
        SourceError: the folder is absent, cannot be listed, holds no class folders or a class
            without images, or what looks like a sample and would be left out, or would come twice.
    """
    root = checked_imagefolder(spec)
    with _naming(root):
        dataset = ImageFolder(root)
    name = f"imagefolder {root}"
    tell_passed_over(name, dataset.passed_over, "no images")
    if are_splits(dataset.classes):
        last = os.path.join(root, dataset.classes[-1])  # noqa: PTH118
        say(
            f"note: {name}: its classes are called {', '.join(dataset.classes)}; if these are parts"
            f" of the data, give one of them: imagefolder:{last}"
        )
    return DatasetSource(dataset, spec, lists_targets=True)


def checked_imagefolder(spec: Spec) -> str:
    """Return the folder of a spec.

    Raises:
        SourceError: it is absent, cannot be listed, or holds no class folders.
        UsageError: options, of which there are none.
    """
    class_folders(spec)
    return _root(spec)


def class_folders(spec: Spec) -> list[str]:
    """Return the names of the classes, those of their folders, sorted; errors as
    `checked_imagefolder`."""
    root = _root(spec)
    with _naming(root):
        names, _ = _class_folders(root)
    return names


def _root(spec: Spec) -> str:
    """Return the folder of a spec; errors as `checked_imagefolder`."""
    if spec.options:
        raise UsageError(
            f"source imagefolder takes a path and no options, not {', '.join(spec.options)}"
        )
    if spec.arg is None or not Path(spec.arg).is_dir():
        hint = ""
        if spec.arg is not None and spec.arg.endswith(".tar"):
            hint = f"; write tars:{spec.arg}"
        raise SourceError(
            f"imagefolder {spec.arg!r} is not a folder; give one that holds one folder per"
            f" class{hint}"
        )
    return spec.arg


@contextmanager
def _naming(root: str) -> Iterator[None]:
    """List a folder; what the system refuses is a SourceError that names it."""
    try:
        yield
    except OSError as error:
        raise not_listed(f"imagefolder {root!r}", error) from error


def _class_folders(root: str) -> tuple[list[str], "Counter[str]"]:
    """Return the names of the class folders, sorted, and how many files beside them there are, by
    extension.

    Raises:
        SourceError: there are none, or an image lies beside them.
    """
    files = []
    classes = []
    hidden_folders = []
    with os.scandir(root) as entries:
        for entry in entries:
            if not entry.is_dir():
                files.append(entry.name)
            elif is_hidden(entry.name):
                hidden_folders.append(entry.name)
            else:
                classes.append(entry.name)
    classes.sort()
    _check_root(root, classes, files)
    passed_over = count_kinds(files)
    for name in sorted(hidden_folders):
        paths = _files_without_images(os.path.join(root, name))  # noqa: PTH118
        passed_over += count_kinds(paths)
    return classes, passed_over


def _samples(root: str, classes: Sequence[str]) -> tuple[Listing, "Counter[str]"]:
    """Return what `list_images` does.

    Raises:
        SourceError: as `list_images`, or a class folder without images.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    listing, passed_over = list_images(root, numbers)
    present_targets = {target for _, target in listing}
    lacking_targets = sorted(set(numbers.values()) - present_targets)
    if lacking_targets:
        name = classes[lacking_targets[0]]
        more = and_more(len(lacking_targets))
        raise SourceError(
            f"imagefolder {root!r}: class folder {name}{more} holds no"
            f" image ({' '.join(IMG_EXTENSIONS)}); put some there, or move the folder"
            f" elsewhere{_what_is_in(Path(root) / name)}"
        )
    return listing, passed_over


def _what_is_in(folder: Path) -> str:
    """Return that a folder is not one of images but what a command writes, if it is."""
    for file, what in (("zarr.json", "a cache"), ("metrics.jsonl", "a run")):
        if (folder / file).is_file():
            return f": it is {what}"
    return ""


def are_splits(names: Collection[str]) -> bool:
    """Return whether the names of some folders are those of the parts of a data set, such as train
    and val."""
    lowered = {name.lower() for name in names}
    if len(lowered) < 2 or lowered.isdisjoint(_HELD_OUT):
        return False
    return lowered <= _HELD_OUT | _TRAINING


def list_images(root: str, classes: dict[str, int]) -> tuple[Listing, "Counter[str]"]:
    """Return the (path, class index) pairs of the images below the class folders, sorted as
    torchvision does.

    A list of NUM_KEPT or more is kept. It is used again while the modification times of the root,
    the class folders and all folders below them are unchanged: a file that comes, goes or changes
    its name is noticed. A file that is overwritten is not, nor need it be: the list holds names.

    Returns:
        The pairs, and how many files with each extension are no images.

    Raises:
        SourceError: an image that is hidden or of another extension, or a folder that would be
            listed twice.
        OSError: a folder cannot be listed.
    """
    identity = f"passed over too {os.path.abspath(root)} {IMG_EXTENSIONS}"  # noqa: PTH100 # links keep their names
    arrays = load_arrays("listings", identity)
    if arrays is not None:
        stamps = _stamps(root, Names(arrays["folders"]))
        if np.array_equal(stamps, arrays["stamps"]):
            return _from_arrays(root, arrays)
    folders, listing, passed_over = _walk(root, classes)
    stamps = _stamps(root, folders)
    if len(listing) >= NUM_KEPT and is_settled(stamps.tolist()):
        arrays = {"folders": folders.text, "stamps": stamps}
        arrays |= _to_arrays(root, listing, passed_over)
        save_arrays("listings", identity, arrays)
    return listing, passed_over


def _from_arrays(root: str, arrays: Arrays) -> tuple[Listing, "Counter[str]"]:
    """Return the listing, and the files that are no images by extension, that arrays keep."""
    listing = []
    targets = arrays["targets"].tolist()
    for name, target in zip(Names(arrays["names"]), targets, strict=True):
        listing.append((os.path.join(root, name), target))  # noqa: PTH118
    passed_over = zip(Names(arrays["kinds"]), arrays["counts"].tolist(), strict=True)
    return listing, Counter(dict(passed_over))


def _to_arrays(root: str, listing: Listing, passed_over: "Counter[str]") -> Arrays:
    """Return the arrays that `_from_arrays` takes."""
    prefix = os.path.join(root, "")  # noqa: PTH118
    names = []
    targets = []
    for path, target in listing:
        names.append(path.removeprefix(prefix))
        targets.append(target)
    return {
        "names": Names.of(names).text,
        "targets": np.array(targets, np.int32),
        "kinds": Names.of(passed_over).text,
        "counts": np.array(list(passed_over.values()), np.int64),
    }


def _walk(root: str, classes: dict[str, int]) -> tuple[Names, Listing, "Counter[str]"]:
    """Return the folders below the class folders, their images, and the numbers of other files."""
    prefix = os.path.join(root, "")  # noqa: PTH118
    folders = ["."]
    listing = []
    others: list[str] = []
    walk = FolderWalk()
    walk.enter(root)
    for name in sorted(classes):
        class_folder = os.path.join(root, name)  # noqa: PTH118 # Path is slow on a million
        for folder, files in sorted(walk.folders(class_folder)):
            place = folder.removeprefix(prefix)
            folders.append(place)
            images = []
            other_files = []
            for file in sorted(files):
                if file.lower().endswith(IMG_EXTENSIONS):
                    images.append(file)
                    path = os.path.join(folder, file)  # noqa: PTH118
                    listing.append((path, classes[name]))
                else:
                    other_files.append(file)
            _check_hidden(root, place, images)
            _check_unlisted(folder, other_files)
            others += other_files
    return Names.of(folders), listing, count_kinds(others)


def _check_root(root: str, classes: list[str], files: list[str]) -> None:
    """Check that a folder holds class folders and no images beside them."""
    images = image_names(files)
    if images and classes:
        raise SourceError(
            f"imagefolder {root!r}: image {images[0]}{and_more(len(images))} lies beside the class"
            " folders, and would be left out; move it into one, or out of the folder"
        )
    if images:
        raise SourceError(
            f"imagefolder {root!r} holds images and no class folder; put the images of each class"
            " into a folder of their own"
        )
    if not classes and any(file.endswith(".tar") for file in files):
        raise SourceError(f"imagefolder {root!r} holds tars and no class folder; write tars:{root}")
    if not classes:
        raise SourceError(
            f"imagefolder {root!r} holds no class folder; give a folder that holds one folder per"
            " class"
        )


def _check_hidden(root: str, place: str, images: list[str]) -> None:
    """Check that no image is hidden, nor a folder that holds images."""
    hidden_images = images
    if not is_hidden(place):
        hidden_images = [image for image in images if image.startswith(".")]
    if hidden_images:
        first = os.path.join(place, hidden_images[0])  # noqa: PTH118
        raise SourceError(
            f"imagefolder {root!r}: {first} is a hidden image{and_more(len(hidden_images))}, "
            "as editors and systems leave them; remove it"
        )


def _check_unlisted(folder: str, names: Sequence[str]) -> None:
    """Check that none of the files that are left out looks like an image."""
    unlisted = image_names(names)
    if unlisted:
        first = os.path.join(folder, unlisted[0])  # noqa: PTH118
        raise SourceError(
            f"{first} would be left out{and_more(len(unlisted))}: imagefolder takes "
            f"{' '.join(IMG_EXTENSIONS)}; convert it to PNG, or move it out of the folder"
        )


def _files_without_images(folder: str) -> list[str]:
    """Return the files below a hidden folder, which is no class; refuse images."""
    paths = []
    root, name = os.path.split(folder)
    for place, files in FolderWalk().folders(folder):
        _check_hidden(root, name, image_names(files))
        paths += [f"{place}/{file}" for file in files]
    return paths


def _stamps(root: str, folders: Names) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return each folder's modification time in ns, of one that is gone -1."""
    stamps = []
    for folder in folders:
        path = os.path.join(root, folder)  # noqa: PTH118
        try:
            stamps.append(os.stat(path).st_mtime_ns)  # noqa: PTH116
        except OSError:
            stamps.append(-1)
    return np.array(stamps, np.int64)


def _read_rgb(path: str) -> Image.Image:
    return to_mode(read_image(path), "RGB")
