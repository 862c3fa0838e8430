"""Data sets of (image, objects) pairs as sources: a box and a class for each thing in an image."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.deferred import Tensor, torch
from kdcache.errors import SourceError, quoted
from kdcache.runtime.console import say
from kdcache.runtime.images import decode_image, file_bytes, read_image
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.dataset import MapStyle
from kdcache.sources.files import NO_FILE, stat_sizes
from kdcache.sources.folder_files import and_more
from kdcache.sources.listings import Array, require_unique_names
from kdcache.sources.protocol import AnnotationIds, Contents, Sample
from kdcache.targets.boxes import ClassBoxes
from kdcache.targets.objects import ObjectBoxes

ROW = np.dtype([("box", "<f4", 4), ("class", "<i4"), ("area", "<f4"), ("is_crowd", "?")])
"""An object: its left, upper, right and lower side, its class, its area, whether it is many."""
_BEYOND = 1.05
"""Times the side of its image to which a box may reach that was drawn a little too large."""
SizesUse = Literal["check", "ignore"]
"""What is done with the sizes of images that annotations say."""
_FEW_BEYOND = 0.1
"""Share of boxes that reach beyond their images before it is told."""


class ObjectRows:
    """The objects of all images in one array: a million of them take 25 MB."""

    def __init__(self, counts: Array, rows: Array) -> None:
        """Take the objects.

        Args:
            counts: how many objects each image has, `[images]`.
            rows: the objects of the first image, of the second one, and so on; of dtype ROW.
        """
        self.rows = rows
        self.counts = counts
        """How many objects each image has, `[images]`."""
        self._ends = self.counts.cumsum()

    @classmethod
    def joined(cls, parts: Iterable[Array]) -> "ObjectRows":
        """Return the objects of images that are given one after the other."""
        counts = []
        arrays = [np.empty(0, ROW)]
        for part in parts:
            counts.append(len(part))
            arrays.append(part)
        return cls(np.array(counts, np.int64), np.concatenate(arrays))

    @classmethod
    def none(cls, num_images: int) -> "ObjectRows":
        """Return those of images of which none is known."""
        return cls(np.zeros(num_images, np.int64), np.empty(0, ROW))

    def of(self, place: int) -> ObjectBoxes:
        """Return the objects of an image."""
        end = self._ends[place]
        rows = self.rows[end - self.counts[place] : end]
        return ObjectBoxes(
            _tensor(rows["box"]),
            _tensor(rows["class"]).long(),
            _tensor(rows["area"]),
            _tensor(rows["is_crowd"]),
        )


class BoxedImages:
    """Image files below a folder, and the objects in them."""

    kind: ClassVar[str] = "BoxedImages"
    """The word for such a data set in its fingerprint."""

    def __init__(self, root: str, names: Iterable[str], objects: ObjectRows) -> None:
        """Take the images.

        Args:
            root: the folder.
            names: their paths below it, with `/`.
            objects: that they show, in pixels.
        """
        self.root = root
        # as in imagefolder: Path is slow on a million
        self.images = [os.path.join(root, name) for name in names]  # noqa: PTH118
        self.objects = objects

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, ObjectBoxes]:
        """Return an image, as stored, and its objects."""
        image = read_image(self.images[index])
        return image, self.objects_in(image, index)

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, ObjectBoxes]:
        """Return the image that a file holds, as stored, and its objects."""
        image = decode_image(contents[0])
        return image, self.objects_in(image, index)

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return file_bytes(self.images[index])

    def objects_in(self, image: Image.Image, index: int) -> ObjectBoxes:
        """Return the objects of an image."""
        return self.objects.of(index)


class SizedImages(BoxedImages):
    """Images of which the annotations say how large they are."""

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        objects: ObjectRows,
        sizes: Array,
        files: str | Sequence[str],
        *,
        uses: SizesUse = "check",
    ) -> None:
        """Take the images.

        Args:
            root: the folder.
            names: their paths below it.
            objects: that they show.
            sizes: width and height of each, int64 `[images, 2]`; 0 where that is not known.
            files: that say so, for messages: one of all images, or one of each.
            uses: whether images must have these sizes; else boxes must lie in their images.
        """
        super().__init__(root, names, objects)
        self._names = names
        self._sizes = sizes
        self._files = files
        self._uses = uses

    def objects_in(self, image: Image.Image, index: int) -> ObjectBoxes:
        """Return the objects of an image.

        Raises:
            SourceError: it has another size than its file says, so that boxes would be elsewhere;
                or a box reaches far beyond it, where what the file says is ignored.
        """
        objects = self.objects.of(index)
        if self._uses == "check":
            self._check_size(image, index)
        else:
            self._check_within(objects, image, index)
        return objects

    def _check_size(self, image: Image.Image, index: int) -> None:
        width, height = self._sizes[index].tolist()
        if 0 in (width, height) or (width, height) == image.size:
            return
        raise SourceError(
            f"image {self.images[index]} has {image.width}x{image.height} pixels, and"
            f" {self._file_of(index)} says {width}x{height}: its boxes are of another image; give"
            " the images that the file was made for, mend what it says, or, where the boxes fit and"
            " sizes alone are wrong, give the source coco or voc sizes=ignore"
        )

    def _check_within(self, objects: ObjectBoxes, image: Image.Image, index: int) -> None:
        ends = objects.boxes[:, 2:]
        is_beyond = (ends > _BEYOND * ends.new_tensor(image.size) + 1).any(1)
        if not is_beyond.any():
            return
        right, lower = ends[is_beyond][0].tolist()
        raise SourceError(
            f"image {self.images[index]} has {image.width}x{image.height} pixels, and a box in"
            f" {self._file_of(index)} reaches to {right:g}, {lower:g}: it is of another image; give"
            " the images that the file was made for, or mend the box"
        )

    def tell_boxes_beyond(self, where: str, form: str) -> None:
        """Say so if many boxes reach far beyond their images: of images that were made smaller, or
        boxes of another form.

        Args:
            where: the source, for messages.
            form: what a box must be, for messages.
        """
        if self._uses == "ignore":
            return
        rows = self.objects.rows
        sizes = np.repeat(self._sizes, self.objects.counts, axis=0)
        is_beyond = (rows["box"][:, 2:] > _BEYOND * sizes + 1).any(1) & (sizes > 0).all(1)
        if is_beyond.sum() <= _FEW_BEYOND * len(rows):
            return
        first = int(np.flatnonzero(is_beyond)[0])
        image = int(np.searchsorted(self.objects.counts.cumsum(), first, side="right"))
        width, height = self._sizes[image].tolist()
        right, lower = rows["box"][first, 2:].tolist()
        say(
            f"note: {where}: {is_beyond.sum()} of {len(rows)} boxes reach beyond their images, and"
            f" are cut there; the first reaches to {right:g}, {lower:g} in {self._names[image]} of"
            f" {width}x{height} pixels: is a box {form}?"
        )

    def _file_of(self, index: int) -> str:
        if isinstance(self._files, str):
            return self._files
        return self._files[index]


class BoxSource(MapStyle):
    """A data set of images with boxes as a source.

    The fingerprint covers the number of samples, their paths, the number of classes, and all boxes:
    a recipe may crop around them. No image file is opened for it.
    """

    task = ClassBoxes.task
    _target_name = ClassBoxes.plural

    def __init__(
        self,
        dataset: BoxedImages,
        spec: Spec,
        *,
        classes: int,
        class_names: tuple[str, ...] | None = None,
        annotation_ids: AnnotationIds | None = None,
    ) -> None:
        """Take the data set.

        Args:
            dataset: of images with boxes.
            spec: that it was opened from.
            classes: how many there are, none of them for the background.
            class_names: their names.
            annotation_ids: of images and classes, where the annotations have them.

        Raises:
            SourceError: no sample, or two classes of one name.
        """
        super().__init__(dataset, spec)
        require_unique_names(class_names or (), self.spec)
        self.classes = classes
        self.class_names = class_names
        self.annotation_ids = annotation_ids
        self._kind = ClassBoxes()
        self.fingerprint = self._fingerprint(dataset)

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its file's `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: boxes that are not finite, too many, or do not belong to the image.
        """
        name = self._name(index)
        image, target = self._pair(index, name, contents)
        objects = self._kind.checked(target, image, self.classes, name)
        return Sample(image, objects)

    def known_targets(self) -> None:
        """Return None: a sample has not one class."""

    def _fingerprint(self, dataset: BoxedImages) -> str:
        head = f"boxes {dataset.kind} {len(self)} {self.classes}\n"
        digest = hashlib.sha256(head.encode())
        digest.update(path_bytes("\n".join(self.listed_paths)))
        digest.update(dataset.objects.counts.astype("<i8").tobytes())
        digest.update(dataset.objects.rows.tobytes())
        return digest.hexdigest()


def require_files(dataset: BoxedImages, names: Sequence[str], where: str, way_out: str) -> None:
    """Check that the images of a data set are there.

    Args:
        dataset: of these images.
        names: of the images, for messages.
        where: the source, for messages.
        way_out: what the user can do about one that is not.

    Raises:
        SourceError: one is not.
    """
    sizes = stat_sizes([dataset.images])
    absent = np.flatnonzero(sizes[:, 0] == NO_FILE)
    if len(absent) == 0:
        return
    name = names[absent[0]]
    more = and_more(len(absent))
    raise SourceError(f"{where}: image {quoted(name)}{more} is not there; {way_out}")


def _tensor(column: Array) -> Tensor:
    """Return a copy of a column of rows, whose numbers do not lie side by side."""
    return torch.from_numpy(column.copy())
