"""Source `digits`: scikit-learn's handwritten digits."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.config.user_functions import check_options
from kdcache.errors import SourceError, UsageError
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.protocol import Source

DIGITS_TRAIN = 1_197
"""The first 1,197 of the 1,797 digits are `digits:train`, the last 600 (other writers for the most
part) `digits:test`."""

_Images = np.ndarray[Any, np.dtype[np.uint8]]
_Targets = np.ndarray[Any, np.dtype[np.int64]]
_PARTS = {
    "train": slice(DIGITS_TRAIN),
    "test": slice(DIGITS_TRAIN, None),
    "all": slice(None),
}


class Digits:
    """scikit-learn's 8x8 handwritten digits, grey levels 0 to 16 scaled to 0 to 255; shipped with
    that package."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str = "train") -> None:
        try:
            images, targets = _all_digits()
        except ImportError as error:
            raise SourceError(
                "source digits needs scikit-learn; pip install 'kdcache[demo]'"
            ) from error
        choose(split, tuple(_PARTS), "split of digits")
        part = _PARTS[split]
        self.data = images[part].copy()
        self.targets = targets[part].copy()

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return the image (mode L) and its digit."""
        return Image.fromarray(self.data[index]), int(self.targets[index])


@cache
def _all_digits() -> tuple[_Images, _Targets]:
    """Return all images, uint8 `[1797, 8, 8]`, and their digits, which are read once: they come as
    compressed text."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    images, targets = load_digits(return_X_y=True)
    grey_levels = images.reshape(-1, 8, 8) * (255 / 16)
    return np.rint(grey_levels).astype(np.uint8), targets


def open_digits(spec: Spec) -> Source:
    """Return the digits of the split that the spec names."""
    return DatasetSource(Digits(checked_digits(spec)), spec, lists_targets=True)


def class_names_of_digits(spec: Spec) -> tuple[str, ...]:
    """Return the names of the classes."""
    return Digits.classes


def checked_digits(spec: Spec) -> str:
    """Return the split of a spec.

    Raises:
        UsageError: an unknown split or option.
    """
    check_options(Digits, spec, "source")
    if spec.arg is not None and spec.options:
        raise UsageError(
            f"source {spec} names its split twice; write digits:train, digits:test or digits:all"
        )
    split = spec.options.get("split", spec.arg or "train")
    return choose(str(split), tuple(_PARTS), "split of digits")
