"""Images without labels: those below a folder, in one file, or of another source. They can be
predicted, not trained on."""

import os
from pathlib import Path

from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.images import read_image
from kdcache.sources.bare_paths import spec_of_path
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.folder_files import (
    IMG_EXTENSIONS,
    FolderWalk,
    count_kinds,
    is_hidden,
    looks_like_image,
    not_listed,
    tell_passed_over,
)
from kdcache.sources.protocol import Sample, Source, image_of, may_draw
from kdcache.sources.registry import OPENERS
from kdcache.targets import ClassBoxes, ClassLabel
from kdcache.targets.boxes import no_objects

_NO_CLASS = 0
"""Stands in the place of a label; nobody looks at it."""


class PlainImages:
    """Images by their paths, in their own modes; the label of each is `_NO_CLASS`."""

    classes = 1

    def __init__(self, root: str, paths: list[str]) -> None:
        self.root = root
        self.samples = [(path, _NO_CLASS) for path in paths]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, in its own mode, and no label."""
        path, label = self.samples[index]
        return read_image(path), label


class WithoutTargets:
    """The images of a source, whatever they are labelled with, which nobody looks at."""

    classes = 1

    def __init__(self, source: Source, *, tells_frames: bool) -> None:
        """Take the source.

        Args:
            source: of the images.
            tells_frames: whether each view says where its image is, as those of images without an
                object do; else its label is `_NO_CLASS`.
        """
        self.task = ClassLabel.task
        if tells_frames:
            self.task = ClassBoxes.task
        self._source = source
        self.spec = source.spec
        self.fingerprint = source.fingerprint
        self.may_draw = may_draw(source)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._source)

    def key(self, index: int) -> str:
        """Return the name of an image."""
        return self._source.key(index)

    def sample(self, index: int) -> Sample:
        """Return an image, and what stands for its target.

        Raises:
            UnreadableSampleError: it cannot be decoded.
        """
        image = image_of(self._source, index)
        if self.task == ClassBoxes.task:
            return Sample(image, no_objects())
        return Sample(image, _NO_CLASS)


def path_of_images(text: str) -> str | None:
    """Return the path of images without labels that a user names; None if it names a source.

    It is a file that is named as an image, or a folder that would be taken for an image folder.

    Raises:
        UsageError: a path that is not there, or of which it cannot be told what it holds.
    """
    path = Path(text).expanduser()
    if path.is_file() and looks_like_image(text):
        return str(path)
    spec = spec_of_path(text, OPENERS)
    if spec is None or spec.name != "imagefolder" or spec.options:
        return None
    return spec.arg


def open_plain_images(path: str) -> Source:
    """Return the images below a folder, sorted by their paths, or the one in a file.

    A sample's key is its path below the folder, and of a file its name. Hidden files and folders
    are passed over, as are files that are no images, which is told.

    Raises:
        SourceError: there is no image, or the folder cannot be listed.
    """
    folder = path
    paths = [path]
    if Path(path).is_dir():
        paths = _image_paths(path)
    else:
        folder = str(Path(path).parent)
    source = DatasetSource(PlainImages(folder, paths), Spec("images", path))
    source.may_draw = False
    return source


def _image_paths(folder: str) -> list[str]:
    """Return the paths of the images below a folder, sorted."""
    images: list[str] = []
    others: list[str] = []
    try:
        for place, files in FolderWalk().folders(folder):
            for file in files:
                path = os.path.join(place, file)  # noqa: PTH118 # Path is slow on a million
                name = os.path.relpath(path, folder)
                if not is_hidden(name) and file.lower().endswith(IMG_EXTENSIONS):
                    images.append(path)
                else:
                    others.append(name)
    except OSError as error:
        raise not_listed(f"folder {folder}", error) from error
    if not images:
        raise SourceError(
            f"folder {folder} holds no image ({' '.join(IMG_EXTENSIONS)}); give a folder of images,"
            " or data of another kind by its spec, such as tars:FOLDER"
        )
    tell_passed_over(f"folder {folder}", count_kinds(others), "no images")
    return sorted(images)
