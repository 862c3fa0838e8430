"""Map-style data sets as sources: what all have in common, and those of (image, class index) and
(image, objects) pairs."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.generators import seeded_generators
from kdcache.runtime.image_items import as_image, described
from kdcache.runtime.images import decode_image, file_bytes
from kdcache.runtime.text_files import path_bytes
from kdcache.runtime.user_code import user_code
from kdcache.sources.files import (
    Numbers,
    Paths,
    are_files,
    listed_path,
    spread_places,
    stat_sizes,
)
from kdcache.sources.listings import (
    ARRAYS,
    MEND,
    array_of,
    checked_length,
    count_classes,
    file_listing,
    listed_targets,
    relative_paths,
    target_lists,
)
from kdcache.sources.protocol import Contents, Sample, named, sample_name
from kdcache.targets import ClassLabel, target_kind, task_of

_PROBED = 64


class MapStyle:
    """A map-style data set whose samples have names: relative paths where it lists files, else
    indices."""

    may_draw = True
    """Whether reading a sample may draw from the global generators; see `open_source`."""
    _target_name = "class index"
    """What comes beside an image, for messages."""

    def __init__(self, dataset: Any, spec: Spec) -> None:
        """Take the data set.

        Raises:
            SourceError: it is no map-style data set, or has no sample.
        """
        self.spec = str(spec)
        self._length = checked_length(dataset, self.spec)
        self._dataset = dataset
        self._paths = relative_paths(dataset)
        self._encoded: Callable[[int], bytes | None] | None = getattr(dataset, "encoded", None)
        self._columns: list[Paths] = []
        images = file_listing(dataset)
        if images and are_files(images):
            self._columns.append(images)
        self._sizes: Numbers | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def key(self, index: int) -> str:
        """Return the relative path of sample `index`, or its number where the data set lists no
        files."""
        if self._paths:
            return self._paths[index]
        return f"{index:08d}"

    @property
    def listed_paths(self) -> Sequence[str]:
        """The relative paths of the samples; none where the data set lists no files."""
        return self._paths or ()

    def stored(self, index: int) -> bytes | None:
        """Return the file that the image of sample `index` is decoded from, where it decodes to
        just that; else None.

        Raises:
            UnreadableSampleError: the file cannot be read.
        """
        if self._encoded is None:
            return None
        with self._calling(self._name(index)), self._reading(index):
            return self._encoded(self._place(index))

    def image(self, index: int) -> Image.Image:
        """Return the image of sample `index`, whatever its target is.

        Raises:
            UnreadableSampleError: it cannot be decoded.
            SourceError: the data set raises something else, or gives no pair, or no image.
        """
        name = self._name(index)
        data = self.stored(index)
        if data is None:
            image, _ = self._pair(index, name, None)
            return image
        with self._calling(name), self._reading(index):
            return as_image(decode_image(data), name)

    def keys(self) -> Iterable[str]:
        """Return the names of all samples, in order."""
        if self._paths:
            return self._paths
        return (self.key(index) for index in range(len(self)))

    def file_sizes(self) -> Numbers | None:
        """Return the bytes of each sample's files, uint32 `[samples, files]`; None without files.

        They are looked up once.

        Raises:
            SourceError: a file of which it cannot be found out.
        """
        if self._sizes is None and self._columns:
            self._sizes = self._in_order(stat_sizes(self._columns))
        return self._sizes

    def files(self) -> Iterable[str]:
        """Return the paths of the files that samples are read from; none if it lists none."""
        paths: dict[str, None] = {}
        for column in self._columns:
            for item in column:
                paths[str(listed_path(item))] = None
        return paths

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            SourceError: they cannot be read.
        """
        with self._calling(self._name(index)), self._reading(index):
            place = self._place(index)
            if self._columns:
                return self._stored_files(place)
            if self._encoded is None:
                return None
            data = self._encoded(place)
            if data is None:
                return None
            return (data,)

    def _stored_files(self, place: int) -> Contents:
        """Return the listed files at a place of the data set."""
        files = []
        for column in self._columns:
            path = str(listed_path(column[place]))
            files.append(file_bytes(path))
        return tuple(files)

    def _pair(self, index: int, name: str, contents: Contents | None) -> tuple[Image.Image, Any]:
        """Return the image, decoded, and the target that the data set gives for sample `index`.

        Args:
            index: of the sample.
            name: of the sample, for messages; to make it takes a microsecond.
            contents: of its files, from which it is decoded where the data set can do that.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the data set raises something else, or gives no pair, or no image.
        """
        with self._calling(name), self._reading(index):
            item = self._item(self._place(index), contents)
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise SourceError(
                    f"{name} is {described(item)}; an item of a data set is a pair:"
                    f" (image, {self._target_name})"
                )
            image, target = item
            return as_image(image, name), target

    def _item(self, place: int, contents: Contents | None) -> Any:
        decode = getattr(self._dataset, "item_of", None)
        if contents is None or decode is None:
            return self._dataset[place]
        return decode(place, contents)

    def _calling(self, name: str) -> user_code:
        """Return the context of a call of the data set: whatever it raises is an error that names
        the sample."""
        return user_code(name, SourceError, way_out=MEND)

    def _reading(self, index: int) -> named:
        """Return the context in which sample `index` is read, inside that of the call."""
        return named(self.spec, index, self.key)

    def _name(self, index: int) -> str:
        return sample_name(self.spec, index, self.key(index))

    def _place(self, index: int) -> int:
        """Return where sample `index` is in the data set."""
        return index

    def _in_order(self, of_places: Numbers) -> Numbers:
        """Return values of the data set's places in the order of the samples."""
        return of_places


class DatasetSource(MapStyle):
    """A map-style data set of (image, class index) pairs as a source, or of (image, objects) pairs
    where it says so by an attribute `task`.

    The fingerprint covers the number of samples, the listed paths and targets, and the bytes of
    arrays held in memory; no image file is opened for it. Of objects, which no list says, it covers
    those of 64 samples.
    """

    def __init__(
        self, dataset: Any, spec: Spec, classes: int | None = None, *, lists_targets: bool = False
    ) -> None:
        """Take the data set.

        Args:
            dataset: of pairs.
            spec: that it was opened from.
            classes: how many there are; by default the data set says it.
            lists_targets: whether the targets that it lists are those of its items: its code may
                change them.

        Raises:
            SourceError: it is no map-style data set, is empty, or does not say its classes.
        """
        super().__init__(dataset, spec)
        self.task = task_of(dataset)
        self._kind = target_kind(self.task)
        if self.task != ClassLabel.task:
            self._target_name = self._kind.plural
        self.classes = classes or count_classes(dataset, self.spec)
        self._lists_targets = lists_targets
        self.class_names: tuple[str, ...] | None = None
        names = getattr(dataset, "classes", None)
        if isinstance(names, (list, tuple)):
            self.class_names = tuple(map(str, names))
        self.fingerprint = self._fingerprint()

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the target is not a class index, or objects that cannot be.
        """
        name = self._name(index)
        image, target = self._pair(index, name, contents)
        checked_target = self._kind.checked(target, image, self.classes, name)
        return Sample(image, checked_target)

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""
        if not self._lists_targets:
            return None
        for targets in target_lists(self._dataset):
            classes = np.asarray(targets)
            if classes.ndim != 1 or classes.dtype.kind not in "iu":
                continue
            if 0 <= classes.min() <= classes.max() < 2**32:
                return classes.astype(np.uint32)
            return None
        return None

    def _fingerprint(self) -> str:
        kind = type(self._dataset).__name__
        digest = hashlib.sha256(f"{kind} {len(self)} {self.classes}\n".encode())
        listed = list(self._listed())
        for part in listed:
            digest.update(part)
        if not listed:
            for index, sample in self._probed():
                digest.update(self._identity(index, sample) + sample.image.tobytes())
        elif self._kind.follows_views:
            for index, sample in self._probed():
                digest.update(self._identity(index, sample))
        return digest.hexdigest()

    def _listed(self) -> Iterator[bytes | memoryview]:
        if self._paths:
            yield path_bytes("\n".join(self._paths))
            targets = listed_targets(self._dataset)
            if targets:
                yield np.asarray(targets).tobytes()
        for name in ARRAYS:
            array = array_of(self._dataset, name)
            if array is not None:
                yield f"{name} {array.shape} {array.dtype}".encode()
                yield np.ascontiguousarray(array).data.cast("B")

    def _probed(self) -> Iterator[tuple[int, Sample]]:
        """Yield some samples, evenly spread; those that are drawn are drawn alike each time."""
        for index in spread_places(len(self), _PROBED):
            with seeded_generators(index):
                sample = self.sample(index)
            yield index, sample

    def _identity(self, index: int, sample: Sample) -> bytes:
        """Return what a sample is, but for its pixels."""
        image, target = sample
        head = f"{index} {image.mode} {image.size} "
        return head.encode() + self._kind.identity(target)
