"""Sources: indexed data sets with stable keys and a fingerprint.

A source is opened from a spec: `digits:train`, `torchvision:FashionMNIST,root=data,train=true`, `imagefolder:/data/train`,
or your own `module:function`, which returns a map-style data set of (image, class index) pairs.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.spec import Spec, check_options, choose, load_function, parse_spec

DIGITS_TRAIN = 1_197
"""The first 1,197 of the 1,797 digits are `digits:train`, the last 600 (other writers for the most part) `digits:test`."""

_LISTINGS = ("samples", "_samples", "imgs", "_image_files", "_images", "images", "_flat_breed_images")
_ARRAYS = ("data", "targets", "labels", "_labels")
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class Sample(NamedTuple):
    """One image as stored, and its class index."""

    image: Image.Image
    target: int


@runtime_checkable
class Source(Protocol):
    """An indexed data set."""

    spec: str
    classes: int
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of samples."""

    def key(self, index: int) -> str:
        """Return the name of sample `index`, which stays the same on every machine."""

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
        """


class DatasetSource:
    """A map-style data set of (image, class index) pairs as a source.

    Keys are relative paths where the data set lists files, else indices. The fingerprint covers the number of samples, the
    listed paths and targets, and the bytes of arrays held in memory; no image file is opened for it.
    """

    def __init__(self, dataset: Any, spec: Spec, classes: int | None = None) -> None:
        if len(dataset) == 0:
            raise SourceError(f"source {spec} is empty; name a data set with at least one sample")
        self.spec = str(spec)
        self._dataset = dataset
        self._paths = _relative_paths(dataset)
        self.classes = classes or _count_classes(dataset, self.spec)
        names = getattr(dataset, "classes", None)
        self.class_names = tuple(map(str, names)) if isinstance(names, (list, tuple)) else None
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def key(self, index: int) -> str:
        """Return the relative path of sample `index`, or its number where the data set lists no files."""
        return self._paths[index] if self._paths else f"{index:08d}"

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the target is not a class index.
        """
        try:
            image, target = self._dataset[index]
            image = _as_pil(image)
            image.load()
        except _UNREADABLE as error:
            raise UnreadableSampleError(
                f"sample {index} ({self.key(index)}) of {self.spec} cannot be read: {type(error).__name__}: {error}; "
                "repair it or remove it"
            ) from error
        if not _is_index(target) or not 0 <= int(target) < self.classes:
            raise SourceError(
                f"sample {index} ({self.key(index)}) of {self.spec} has target {target!r}; "
                f"it must be a class index from 0 to {self.classes - 1}"
            )
        return Sample(image, int(target))

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


class Digits:
    """scikit-learn's 8x8 handwritten digits, grey levels 0 to 16 scaled to 0 to 255; shipped with that package."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str = "train") -> None:
        try:
            from sklearn.datasets import load_digits  # noqa: PLC0415
        except ImportError as error:
            raise SourceError("source digits needs scikit-learn; pip install 'kdcache[demo]'") from error
        choose(split, ("train", "test", "all"), "split of digits")
        images, targets = load_digits(return_X_y=True)
        part = {"train": slice(DIGITS_TRAIN), "test": slice(DIGITS_TRAIN, None), "all": slice(None)}[split]
        self.data = np.rint(images[part].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.targets = targets[part]

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return the image (mode L) and its digit."""
        return Image.fromarray(self.data[index]), int(self.targets[index])


def open_source(text: str) -> Source:
    """Return the source that a spec names.

    Raises:
        SourceError: the data is absent, empty or has no class targets.
        UsageError: an unknown source or option; the nearest is suggested.
    """
    spec = parse_spec(text)
    opener = _OPENERS.get(spec.name)
    if opener is not None:
        return opener(spec)
    opened = load_function(spec, "source", _OPENERS)
    return opened if hasattr(opened, "fingerprint") else DatasetSource(opened, spec)


def is_images_only(text: str) -> bool:
    """Return whether opening the spec reads images and nothing else: calls no function, downloads nothing, reads no pickle.

    Some torchvision data sets load files beside the images with pickle.
    """
    return parse_spec(text).name in ("digits", "imagefolder")


def _open_digits(spec: Spec) -> Source:
    check_options(Digits, spec, "source")
    if spec.arg is not None and spec.options:
        raise UsageError(f"source {spec} names its split twice; write digits:train, digits:test or digits:all")
    return DatasetSource(Digits(str(spec.options.get("split", spec.arg or "train"))), spec)


def _open_imagefolder(spec: Spec) -> Source:
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    if spec.options:
        raise UsageError(f"source imagefolder takes a path and no options, not {', '.join(spec.options)}")
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(f"imagefolder {spec.arg!r} is not a folder; give one that holds one folder per class")
    try:
        return DatasetSource(ImageFolder(spec.arg), spec)
    except FileNotFoundError as error:
        raise SourceError(f"imagefolder {spec.arg!r}: {' '.join(str(error).split())}") from error


def _open_torchvision(spec: Spec) -> Source:
    from torchvision import datasets  # noqa: PLC0415

    names = [name for name in datasets.__all__ if name not in ("ImageFolder", "DatasetFolder", "FakeData")]
    cls = getattr(datasets, choose(spec.arg or "", names, "torchvision data set"))
    options = dict(spec.options)
    # a number is for us: the data set does not say; LSUN has a parameter of that name, which is a list or text
    given = options.get("classes")
    classes = given if isinstance(given, int) else None
    if classes is not None:
        del options["classes"]
    check_options(cls, Spec(spec.name, spec.arg, options), "source")
    try:
        dataset = cls(**options)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"source {spec}: {reason}; check root={options.get('root')!r}, or add download=true if the set can be downloaded"
        ) from error
    return DatasetSource(dataset, spec, classes)


_OPENERS: dict[str, Callable[[Spec], Source]] = {
    "digits": _open_digits,
    "imagefolder": _open_imagefolder,
    "torchvision": _open_torchvision,
}


def _is_index(target: Any) -> bool:
    return isinstance(target, (int, np.integer)) or (isinstance(target, torch.Tensor) and target.numel() == 1)


def _as_pil(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    from torchvision.transforms.v2.functional import to_pil_image  # noqa: PLC0415

    return to_pil_image(image)  # type: ignore[no-any-return]


def _listing(dataset: Any) -> Sequence[Any] | None:
    """Return the data set's own list of files, as paths or as (path, class) pairs, if it keeps one."""
    for name in _LISTINGS:
        listing = getattr(dataset, name, None)
        if isinstance(listing, (list, tuple)) and len(listing) == len(dataset) and _path(listing[0]) is not None:
            return listing
    return None


def _path(item: Any) -> str | None:
    first = item[0] if isinstance(item, (list, tuple)) and item else item
    return str(first) if isinstance(first, (str, Path)) else None


def _relative_paths(dataset: Any) -> list[str] | None:
    """Return the listed paths below the data set's root, or below what they have in common: the same on every machine."""
    listing = _listing(dataset)
    if not listing:
        return None
    # not Path.resolve, which takes far longer on a million paths and gives links another name
    paths = [os.path.abspath(str(_path(item))) for item in listing]  # noqa: PTH100
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
