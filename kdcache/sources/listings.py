"""What a map-style data set tells of itself: its length, its files, its targets, its classes."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from kdcache.deferred import IterableDataset, Tensor
from kdcache.errors import SourceError, quoted
from kdcache.runtime.image_items import described
from kdcache.runtime.user_code import user_code
from kdcache.sources.files import listed_path
from kdcache.targets.label import is_integer

Array = np.ndarray[Any, np.dtype[Any]]

IS_EMPTY = "is empty; name a data set with at least one sample"
MEND = "mend the data set's code"
ARRAYS = ("data", "targets", "labels", "_labels")
"""Attributes that hold a value for each sample."""
_TARGET_ARRAYS = ARRAYS[1:]
_LISTINGS = (
    "samples",
    "_samples",
    "imgs",
    "_image_files",
    "_images",
    "images",
    "_flat_breed_images",
)


def checked_length(dataset: Any, spec: str) -> int:
    """Return the number of samples of a map-style data set.

    Raises:
        SourceError: it is none, or is empty.
    """
    _require_map_style(dataset, spec)
    with user_code(f"source {spec}: its __len__", SourceError, way_out=MEND):
        length = len(dataset)
    if length == 0:
        raise SourceError(f"source {spec} {IS_EMPTY}")
    return length


def _require_map_style(dataset: Any, spec: str) -> None:
    lacking = lacking_attributes(type(dataset), ("__len__", "__getitem__"))
    if lacking:
        what = f"which has no {' and no '.join(lacking)}"
    elif isinstance(dataset, (IterableDataset, dict, str, bytes)):
        what = "which cannot be asked for sample i"
    else:
        return
    raise SourceError(
        f"source {spec} gives {described(dataset)}, {what}; it must give a map-style data set:"
        " an object with __len__, and __getitem__ that returns the pair of an image and its"
        " target"
    )


def lacking_attributes(thing: object, names: Sequence[str]) -> list[str]:
    """Return the names that are none of a thing's attributes."""
    return [name for name in names if not hasattr(thing, name)]


def file_listing(dataset: Any) -> Sequence[Any] | None:
    """Return the data set's own list of files, as paths or as (path, class) pairs, if it keeps
    one."""
    for name in _LISTINGS:
        listing: Any = getattr(dataset, name, None)
        if lists_files(listing, dataset):
            return cast(Sequence[Any], listing)
    return None


def lists_files(listing: Any, dataset: Any) -> bool:
    """Return whether a value is a list with a path, or a (path, class) pair, for each sample."""
    if not isinstance(listing, (list, tuple)) or len(listing) != len(dataset):
        return False
    return listed_path(listing[0]) is not None


def relative_paths(dataset: Any) -> list[str] | None:
    """Return the listed paths below the data set's root, or below what they have in common: the
    same on every machine."""
    listing = file_listing(dataset)
    if not listing:
        return None
    # not Path.resolve, which takes far longer on a million paths and gives links another name
    paths = [os.path.abspath(str(listed_path(item))) for item in listing]  # noqa: PTH100
    root = os.path.abspath(getattr(dataset, "root", "")) + os.sep  # noqa: PTH100
    if not all(path.startswith(root) for path in paths):
        folders = {path.rpartition(os.sep)[0] for path in paths}
        root = os.path.commonpath(folders).rstrip(os.sep) + os.sep
    return [path.removeprefix(root) for path in paths]


def listed_targets(dataset: Any) -> list[int] | None:
    """Return the class of each sample in the data set's own list of files, if it says them."""
    listing = file_listing(dataset)
    if not listing:
        return None
    first = listing[0]
    if isinstance(first, (list, tuple)) and isinstance(first[-1], (int, np.integer)):
        return [int(item[-1]) for item in listing]
    return None


def array_of(dataset: Any, name: str) -> Array | None:
    """Return an attribute that holds a number, or an array of them, for each sample; None if it is
    no such attribute."""
    value = getattr(dataset, name, None)
    if not isinstance(value, (np.ndarray, Tensor, list)) or len(value) != len(dataset):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of several lengths, as of the objects in images
        return None
    if array.dtype.kind not in "iufb":
        return None
    return array


def target_lists(dataset: Any) -> list[Array | list[int]]:
    """Return what the data set says of its targets: in its list of files, and in its arrays."""
    lists: list[Array | list[int]] = []
    targets = listed_targets(dataset)
    if targets is not None:
        lists.append(targets)
    for name in _TARGET_ARRAYS:
        array = array_of(dataset, name)
        if array is not None:
            lists.append(array)
    return lists


def count_classes(dataset: Any, spec: str) -> int:
    """Return how many classes a data set has: as it says, or one more than its largest target.

    Raises:
        SourceError: neither tells it.
    """
    for name in ("classes", "num_classes", "categories"):
        value: Any = getattr(dataset, name, None)
        if is_integer(value) and value > 0:
            return int(value)
        if isinstance(value, (list, tuple)) and value:
            return len(value)
    for targets in target_lists(dataset):
        if np.ndim(targets) != 1:
            continue
        largest = np.max(targets)
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


def require_unique_names(names: Sequence[str], spec: str) -> None:
    """Raise a SourceError if two classes of a source have one name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise SourceError(
                f"source {spec} has {count} classes of one name, {quoted(name)}; give each its own"
            )
