"""Map-style data sets as sources: what all have in common, and those of (image, class index)
pairs."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.image_items import as_image, described
from kdcache.runtime.images import file_bytes
from kdcache.runtime.text_files import path_bytes
from kdcache.runtime.user_code import user_code
from kdcache.sources.files import Numbers, Paths, are_files, listed_path, stat_sizes
from kdcache.sources.protocol import Contents, Sample, named, sample_name
from kdcache.targets import target_kind, task_of

_LISTINGS = (
    "samples",
    "_samples",
    "imgs",
    "_image_files",
    "_images",
    "images",
    "_flat_breed_images",
)
_ARRAYS = ("data", "targets", "labels", "_labels")
IS_EMPTY = "is empty; name a data set with at least one sample"
_MEND = "mend the data set's code"


class MapStyle:
    """A map-style data set whose samples have names: relative paths where it lists files, else
    indices."""

    _TARGET = "class index"
    """What comes beside an image, for messages."""

    def __init__(self, dataset: Any, spec: Spec) -> None:
        """Take the data set.

        Raises:
            SourceError: it is no map-style data set, or has no sample.
        """
        self.spec = str(spec)
        self._length = _length(dataset, self.spec)
        self._dataset = dataset
        self._paths = relative_paths(dataset)
        self._encoded: Callable[[int], bytes | None] | None = getattr(dataset, "encoded", None)
        images = _listing(dataset)
        self._columns: list[Paths] = [images] if images and are_files(images) else []
        self._sizes: Numbers | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def key(self, index: int) -> str:
        """Return the relative path of sample `index`, or its number where the data set lists no
        files."""
        return self._paths[index] if self._paths else f"{index:08d}"

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
        with self._reading(index):
            return self._encoded(self._place(index))

    def keys(self) -> Iterable[str]:
        """Return the names of all samples, in order."""
        return self._paths or (self.key(index) for index in range(len(self)))

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
        items = itertools.chain.from_iterable(self._columns)
        return dict.fromkeys(str(listed_path(item)) for item in items)

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            SourceError: they cannot be read.
        """
        with self._reading(index):
            place = self._place(index)
            if self._columns:
                paths = [str(listed_path(column[place])) for column in self._columns]
                return tuple(file_bytes(path) for path in paths)
            data = self._encoded(place) if self._encoded else None
            return None if data is None else (data,)

    def _pair(self, index: int, contents: Contents | None) -> tuple[Image.Image, Any]:
        """Return the image, decoded, and the target that the data set gives for sample `index`.

        Args:
            index: of the sample.
            contents: of its files, from which it is decoded where the data set can do that.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the data set raises something else, or gives no pair, or no image.
        """
        with self._reading(index):
            item = self._item(self._place(index), contents)
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise SourceError(
                    f"{self._name(index)} is {described(item)}; an item of a data set is a pair:"
                    f" (image, {self._TARGET})"
                )
            image, target = item
            return as_image(image, self._name(index)), target

    def _item(self, place: int, contents: Contents | None) -> Any:
        decode = getattr(self._dataset, "item_of", None)
        if contents is None or decode is None:
            return self._dataset[place]
        return decode(place, contents)

    @contextmanager
    def _reading(self, index: int) -> Iterator[None]:
        """Call the data set for sample `index`: whatever it raises is an error that names the
        sample."""
        with (
            user_code(self._name(index), SourceError, way_out=_MEND),
            named(self.spec, index, self.key),
        ):
            yield

    def _name(self, index: int) -> str:
        return sample_name(self.spec, index, self.key(index))

    def _place(self, index: int) -> int:
        """Return where sample `index` is in the data set."""
        return index

    def _in_order(self, of_places: Numbers) -> Numbers:
        """Return values of the data set's places in the order of the samples."""
        return of_places


class DatasetSource(MapStyle):
    """A map-style data set of (image, class index) pairs as a source.

    The fingerprint covers the number of samples, the listed paths and targets, and the bytes of
    arrays held in memory; no image file is opened for it.
    """

    def __init__(
        self, dataset: Any, spec: Spec, classes: int | None = None, *, lists_targets: bool = False
    ) -> None:
        """Take the data set.

        Args:
            dataset: of (image, class index) pairs.
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
        self.classes = classes or _count_classes(dataset, self.spec)
        self._lists_targets = lists_targets
        names = getattr(dataset, "classes", None)
        self.class_names = tuple(map(str, names)) if isinstance(names, (list, tuple)) else None
        self.fingerprint = self._fingerprint()

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the target is not a class index.
        """
        image, target = self._pair(index, contents)
        return Sample(image, self._kind.checked(target, image, self.classes, self._name(index)))

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""
        if not self._lists_targets:
            return None
        arrays = (_array(self._dataset, name) for name in _ARRAYS[1:])
        for targets in (_listed_targets(self._dataset), *arrays):
            known = None if targets is None else np.asarray(targets)
            if known is not None and known.ndim == 1 and known.dtype.kind in "iu":
                return known.astype(np.uint32) if 0 <= known.min() <= known.max() < 2**32 else None
        return None

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(
            f"{type(self._dataset).__name__} {len(self)} {self.classes}\n".encode()
        )
        parts = list(self._listed())
        for part in parts or self._probed():
            digest.update(part)
        return digest.hexdigest()

    def _listed(self) -> Iterator[bytes | memoryview]:
        if self._paths:
            yield path_bytes("\n".join(self._paths))
            yield from (
                np.asarray(labels).tobytes()
                for labels in [_listed_targets(self._dataset)]
                if labels
            )
        for name in _ARRAYS:
            array = _array(self._dataset, name)
            if array is not None:
                yield f"{name} {array.shape} {array.dtype}".encode()
                yield np.ascontiguousarray(array).data.cast("B")

    def _probed(self) -> Iterator[bytes]:
        """Hash some samples, evenly spread, of a data set that shows neither paths nor arrays."""
        for index in np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int):
            image, target = self.sample(int(index))
            yield f"{index} {image.mode} {image.size} {target}".encode() + image.tobytes()


def _length(dataset: Any, spec: str) -> int:
    """Return the number of samples of a map-style data set.

    Raises:
        SourceError: it is none, or is empty.
    """
    kind = type(dataset)
    lacking = [name for name in ("__len__", "__getitem__") if not hasattr(kind, name)]
    if isinstance(dataset, (IterableDataset, dict, str, bytes)) or lacking:
        what = "which cannot be asked for sample i"
        if lacking:
            what = f"which has no {' and no '.join(lacking)}"
        raise SourceError(
            f"source {spec} gives {described(dataset)}, {what}; it must give a map-style data set:"
            " an object with __len__, and __getitem__ that returns the pair of an image and its"
            " target"
        )
    with user_code(f"source {spec}: its __len__", SourceError, way_out=_MEND):
        length = len(dataset)
    if length == 0:
        raise SourceError(f"source {spec} {IS_EMPTY}")
    return length


def _listing(dataset: Any) -> Sequence[Any] | None:
    """Return the data set's own list of files, as paths or as (path, class) pairs, if it keeps
    one."""
    for name in _LISTINGS:
        listing: Any = getattr(dataset, name, None)
        is_list = isinstance(listing, (list, tuple)) and len(listing) == len(dataset)
        if is_list and listed_path(listing[0]) is not None:
            return cast(Sequence[Any], listing)
    return None


def relative_paths(dataset: Any) -> list[str] | None:
    """Return the listed paths below the data set's root, or below what they have in common: the
    same on every machine."""
    listing = _listing(dataset)
    if not listing:
        return None
    # not Path.resolve, which takes far longer on a million paths and gives links another name
    paths = [os.path.abspath(str(listed_path(item))) for item in listing]  # noqa: PTH100
    root = os.path.abspath(getattr(dataset, "root", "")) + os.sep  # noqa: PTH100
    if not all(path.startswith(root) for path in paths):
        root = (
            os.path.commonpath([path.rpartition(os.sep)[0] for path in paths]).rstrip(os.sep)
            + os.sep
        )
    return [path.removeprefix(root) for path in paths]


def _listed_targets(dataset: Any) -> list[int] | None:
    listing = _listing(dataset)
    if (
        listing
        and isinstance(listing[0], (list, tuple))
        and isinstance(listing[0][-1], (int, np.integer))
    ):
        return [int(item[-1]) for item in listing]
    return None


def _array(dataset: Any, name: str) -> "np.ndarray[Any, np.dtype[Any]] | None":
    value = getattr(dataset, name, None)
    if isinstance(value, (np.ndarray, torch.Tensor, list)) and len(value) == len(dataset):
        array = np.asarray(value)
        return array if array.dtype.kind in "iufb" else None
    return None


def _count_classes(dataset: Any, spec: str) -> int:
    for name in ("classes", "num_classes", "categories"):
        value = getattr(dataset, name, None)
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0:
            return int(value)
        if isinstance(value, (list, tuple)) and value:
            return len(value)
    for labels in (_listed_targets(dataset), *(_array(dataset, name) for name in _ARRAYS[1:])):
        if labels is None or np.ndim(labels) != 1:
            continue
        largest = np.max(labels)
        if largest >= 0:  # some give -1 or NaN where there are no labels
            return int(largest) + 1
    classes = getattr(dataset, "classes", None)
    what = "does not say how many classes it has"
    if classes is not None:
        what = f"says that its classes are {described(classes)}"
    raise SourceError(
        f"source {spec} {what}; give the data set an attribute `classes` (a list of names or a"
        " number)"
    )
