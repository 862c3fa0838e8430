"""Map-style data sets as sources: what all have in common, and those of (image, class index) pairs."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from kdcache.errors import SourceError
from kdcache.sources.files import Numbers, Paths, are_files, listed_path, stat_sizes
from kdcache.sources.protocol import Contents, Sample, named
from kdcache.spec import Spec

_LISTINGS = ("samples", "_samples", "imgs", "_image_files", "_images", "images", "_flat_breed_images")
_ARRAYS = ("data", "targets", "labels", "_labels")


class MapStyle:
    """A map-style data set whose samples have names: relative paths where it lists files, else indices."""

    def __init__(self, dataset: Any, spec: Spec) -> None:
        """Take the data set.

        Raises:
            SourceError: it has no sample.
        """
        if len(dataset) == 0:
            raise SourceError(f"source {spec} is empty; name a data set with at least one sample")
        self.spec = str(spec)
        self._dataset = dataset
        self._paths = relative_paths(dataset)
        self._encoded: Callable[[int], bytes | None] | None = getattr(dataset, "encoded", None)
        images = _listing(dataset)
        self._columns: list[Paths] = [images] if images and are_files(images) else []
        self._sizes: Numbers | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def key(self, index: int) -> str:
        """Return the relative path of sample `index`, or its number where the data set lists no files."""
        return self._paths[index] if self._paths else f"{index:08d}"

    def stored(self, index: int) -> bytes | None:
        """Return the file that the image of sample `index` is decoded from, where it decodes to just that; else None.

        Raises:
            UnreadableSampleError: the file cannot be read.
        """
        if self._encoded is None:
            return None
        with named(self.spec, index, self.key):
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

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            UnreadableSampleError: they cannot be read.
        """
        with named(self.spec, index, self.key):
            place = self._place(index)
            if self._columns:
                paths = [str(listed_path(column[place])) for column in self._columns]
                return tuple(Path(path).read_bytes() for path in paths)
            data = self._encoded(place) if self._encoded else None
            return None if data is None else (data,)

    def _item(self, index: int, contents: Contents | None) -> Any:
        """Return what the data set holds, from its files' contents if it can decode them."""
        place = self._place(index)
        decode = getattr(self._dataset, "item_of", None)
        if contents is None or decode is None:
            return self._dataset[place]
        return decode(place, contents)

    def _place(self, index: int) -> int:
        """Return where sample `index` is in the data set."""
        return index

    def _in_order(self, of_places: Numbers) -> Numbers:
        """Return values of the data set's places in the order of the samples."""
        return of_places


class DatasetSource(MapStyle):
    """A map-style data set of (image, class index) pairs as a source.

    The fingerprint covers the number of samples, the listed paths and targets, and the bytes of arrays held in memory; no image
    file is opened for it.
    """

    def __init__(self, dataset: Any, spec: Spec, classes: int | None = None) -> None:
        super().__init__(dataset, spec)
        self.classes = classes or _count_classes(dataset, self.spec)
        names = getattr(dataset, "classes", None)
        self.class_names = tuple(map(str, names)) if isinstance(names, (list, tuple)) else None
        self.fingerprint = self._fingerprint()

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the target is not a class index.
        """
        with named(self.spec, index, self.key):
            image, target = self._item(index, contents)
            image = as_pil(image)
            image.load()
        if not _is_index(target) or not 0 <= int(target) < self.classes:
            raise SourceError(
                f"sample {index} ({self.key(index)}) of {self.spec} has target {target!r}; "
                f"it must be a class index from 0 to {self.classes - 1}{_way_out(target)}"
            )
        return Sample(image, int(target))

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""
        arrays = (_array(self._dataset, name) for name in _ARRAYS[1:])
        for targets in (_listed_targets(self._dataset), *arrays):
            known = None if targets is None else np.asarray(targets)
            if known is not None and known.ndim == 1 and known.dtype.kind in "iu":
                return known.astype(np.uint32) if 0 <= known.min() <= known.max() < 2**32 else None
        return None

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{type(self._dataset).__name__} {len(self)} {self.classes}\n".encode())
        parts = list(self._listed())
        for part in parts or self._probed():
            digest.update(part)
        return digest.hexdigest()

    def _listed(self) -> Iterator[bytes | memoryview]:
        if self._paths:
            yield "\n".join(self._paths).encode()
            yield from (np.asarray(labels).tobytes() for labels in [_listed_targets(self._dataset)] if labels)
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


def _way_out(target: Any) -> str:
    if not isinstance(target, Image.Image):
        return ""
    return '; if it is a mask, give the data set an attribute task = "segmentation"'


def _is_index(target: Any) -> bool:
    return isinstance(target, (int, np.integer)) or (isinstance(target, torch.Tensor) and target.numel() == 1)


def as_pil(image: Any) -> Image.Image:
    """Return what a data set gives as an image: one of Pillow's, or an array or tensor."""
    if isinstance(image, Image.Image):
        return image
    from torchvision.transforms.v2.functional import to_pil_image  # noqa: PLC0415

    return to_pil_image(image)  # type: ignore[no-any-return]


def _listing(dataset: Any) -> Sequence[Any] | None:
    """Return the data set's own list of files, as paths or as (path, class) pairs, if it keeps one."""
    for name in _LISTINGS:
        listing: Any = getattr(dataset, name, None)
        is_list = isinstance(listing, (list, tuple)) and len(listing) == len(dataset)
        if is_list and listed_path(listing[0]) is not None:
            return cast(Sequence[Any], listing)
    return None


def relative_paths(dataset: Any) -> list[str] | None:
    """Return the listed paths below the data set's root, or below what they have in common: the same on every machine."""
    listing = _listing(dataset)
    if not listing:
        return None
    # not Path.resolve, which takes far longer on a million paths and gives links another name
    paths = [os.path.abspath(str(listed_path(item))) for item in listing]  # noqa: PTH100
    root = os.path.abspath(getattr(dataset, "root", "")) + os.sep  # noqa: PTH100
    if not all(path.startswith(root) for path in paths):
        root = os.path.commonpath([path.rpartition(os.sep)[0] for path in paths]).rstrip(os.sep) + os.sep
    return [path.removeprefix(root) for path in paths]


def _listed_targets(dataset: Any) -> list[int] | None:
    listing = _listing(dataset)
    if listing and isinstance(listing[0], (list, tuple)) and isinstance(listing[0][-1], (int, np.integer)):
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
        if isinstance(value, int):
            return value
        if isinstance(value, (list, tuple)) and value:
            return len(value)
    for labels in (_listed_targets(dataset), *(_array(dataset, name) for name in _ARRAYS[1:])):
        if labels is not None and np.ndim(labels) == 1:
            return int(np.max(labels)) + 1
    raise SourceError(
        f"source {spec} does not say how many classes it has; give the data set an attribute `classes` (a list or a number)"
    )
