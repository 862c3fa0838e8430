"""A class index for each image."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from kdcache.deferred import Tensor, torch
from kdcache.errors import SourceError, quoted
from kdcache.runtime.image_items import described
from kdcache.shapes import Labels
from kdcache.targets.protocol import MixedTarget, StoredTarget

_MOST_DIGITS = 9


class ClassLabel:
    """The target of classification."""

    task: ClassVar[str] = "classification"
    suffix: ClassVar[str] = "cls"
    plural: ClassVar[str] = "labels"
    follows_views: ClassVar[bool] = False
    layouts: ClassVar[frozenset[str]] = frozenset({"one"})
    eval_recipe: ClassVar[str] = "eval"
    is_small: ClassVar[bool] = True

    def checked(self, target: Any, image: Image.Image, classes: int, name: str) -> int:
        """Return the class index that a user's code gave, an integer of any kind.

        Raises:
            SourceError: no integer, or one of no class.
        """
        index = integer(target)
        if index is None or not 0 <= index < classes:
            raise SourceError(
                f"{name} has target {described(target)}; it must be a class index from 0 to"
                f" {classes - 1}{_hint(target)}"
            )
        return index

    def encode(self, target: StoredTarget) -> bytes:
        """Return the class index in decimal digits."""
        assert isinstance(target, int)
        return str(target).encode()

    def identity(self, target: StoredTarget) -> bytes:
        """Return the class index in decimal digits."""
        return self.encode(target)

    def check_stored(self, data: bytes) -> None:
        """Check that a file holds digits.

        Raises:
            ValueError: it holds something else.
        """
        if not data.isdigit() or len(data) > _MOST_DIGITS:
            raise ValueError(f"holds {quoted(data)}, not a class index")

    def decode(self, data: bytes, image: Image.Image, classes: int, name: str) -> int:
        """Return the class index in a file.

        Raises:
            SourceError: there is no such class.
        """
        self.check_stored(data)
        index = int(data)
        if index >= classes:
            raise SourceError(f"{name} is of class {index}; the cache says {classes} classes")
        return index

    def follower(self, target: StoredTarget, image: Image.Image) -> None:
        """Return None: a view has the class of its image."""

    def size_of(self, moved: Any) -> list[int]:
        """Refuse: a class index moves with no view."""
        raise AssertionError("a class index does not follow its view")

    def followed(self, target: StoredTarget, moved: Any, image: Image.Image) -> int:
        """Return the class index of the image."""
        assert isinstance(target, int)
        return target

    def batch(self, targets: Sequence[MixedTarget], size: Sequence[int], *, mixes: bool) -> Labels:
        """Return the class indices, int64 `[views]`, and of mixed views the second ones with the
        share of the first."""
        numbers = np.array(targets, dtype=np.float64).reshape(-1, 3)
        classes = torch.from_numpy(numbers[:, :2].astype(np.int64))
        first, second = classes.unbind(1)
        if not mixes:
            return Labels(first, None)
        shares = torch.from_numpy(numbers[:, 2]).float()
        return Labels(first, (second, shares))


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer of Python or of numpy; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(target: Any) -> int | None:
    """Return the number that an integer of any kind is; None of what is none."""
    if type(target) is int:  # most are
        return target
    if isinstance(target, Tensor) and target.numel() == 1:
        is_other = target.is_floating_point() or target.is_complex() or target.dtype == torch.bool
        return None if is_other else int(target)
    if isinstance(target, np.ndarray) and target.size == 1 and target.dtype.kind in "iu":
        return int(target.item())
    return int(target) if is_integer(target) else None


def _hint(target: Any) -> str:
    """Return the way out for a target that is no class index."""
    if isinstance(target, (list, tuple)):
        return "; give the class alone: of a one-hot row the place of its 1"
    is_array = isinstance(target, (np.ndarray, Tensor))
    num_axes = 0
    if is_array:
        num_axes = target.ndim
    if isinstance(target, (Image.Image, Mapping)) or num_axes >= 2:
        return _hint_of_task(target)
    if num_axes == 1 and target.shape[0] > 1:
        return "; of a one-hot row give the place of its 1: int(row.argmax())"
    if isinstance(target, str):
        return "; give the name's place in the list of classes"
    if target is None:
        return "; leave out samples without a class"
    is_number = is_array or isinstance(target, (bool, float, np.generic))
    return "; give int(target)" if is_number and integer(target) is None else ""


def _hint_of_task(target: Any) -> str:
    """Return the way out for a target that may be of another task."""
    if not isinstance(target, Mapping):
        return '; if it is a mask, give the data set an attribute task = "segmentation"'
    if "boxes" not in target:
        return "; give the class alone"
    return '; if it is of objects, give the data set an attribute task = "detection"'
