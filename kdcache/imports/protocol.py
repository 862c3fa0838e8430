"""What a format of somebody else's gives of a sample: views, and what a teacher said of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from kdcache.errors import CacheError, quoted
from kdcache.imports.torch_files import read_torch_file
from kdcache.sources import Source
from kdcache.views.stored_arrays import Arrays, are_stored, check_kinds, check_values

Classes = np.ndarray[Any, np.dtype[np.int32]]
Probabilities = np.ndarray[Any, np.dtype[np.float32]]
_MOST_SUM = 1.01
"""Of the probabilities of a crop: some are stored in float16."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CropLabels:
    """The crops of a sample, and the most likely classes of each."""

    views: Arrays
    """What is stored of each crop, `[crops, ...]`, see `kdcache.views.stored_arrays`."""
    classes: Classes
    """`[crops, k]`, in any order."""
    probabilities: Probabilities
    """Of these classes, `[crops, k]`."""
    lacking: frozenset[int] = frozenset()
    """Crops that the sample lacks, though it may have later ones: of them the arrays mean
    nothing."""

    @property
    def num_crops(self) -> int:
        """How many crops there are, those that are lacking among them."""
        return len(self.classes)

    def has(self, crop: int) -> bool:
        """Return whether there is a crop, counted from 0."""
        return crop < self.num_crops and crop not in self.lacking

    def check(self, num_samples: int, num_classes: int) -> None:
        """Check that crops lie in their image, and labels are of the data's classes.

        Args:
            num_samples: of the data.
            num_classes: likewise.

        Raises:
            ValueError: they are not.
        """
        check_kinds(self.views, num_axes=1)
        check_values(self.views, num_samples)
        lacking = set(np.flatnonzero(~are_stored(self.views)).tolist())
        if lacking != self.lacking:
            raise ValueError("a box that does not lie in its image")
        low = self.classes.min(initial=0)
        high = self.classes.max(initial=0)
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels of classes {low} to {high}, and the data has classes 0 to"
                f" {num_classes - 1}"
            )
        ordered = np.sort(self.classes, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a class twice among the labels of a crop")
        sums = self.probabilities.sum(1)
        is_share = (self.probabilities >= 0).all() and (sums <= _MOST_SUM).all()
        if not is_share:  # nor is NaN
            raise ValueError(
                f"labels that are no probabilities, {quoted(self.probabilities[0].tolist())}"
            )


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How views are rendered from what is stored of them."""

    size: int
    """The side of a view, where no model has a wish of its own."""
    interpolation: str
    """How a crop is resized."""


def stored_crop(digest: str, settings: ViewSettings) -> dict[str, Any]:
    """Return the first transform of a recipe of stored views.

    Args:
        digest: of the views.
        settings: how they are rendered.
    """
    return {
        "name": "kdcache.StoredCrop",
        "size": "input",
        "interpolation": settings.interpolation,
        "views": digest,
    }


def checked_labels(
    path: Path, labels_of: Callable[[Any], CropLabels], source: Source, whose: str
) -> CropLabels:
    """Return the labels in a file that torch.save wrote, checked.

    Args:
        path: of the file.
        labels_of: gives what the content of a file says; raises a ValueError where it says nothing.
        source: that the labels are of.
        whose: names the format in messages.

    Raises:
        FileNotFoundError: there is no such file.
        CacheError: it cannot be read.
    """
    content = read_torch_file(path)
    return checked(lambda: labels_of(content), source, f"file {path}", whose)


def checked(
    labels_of: Callable[[], CropLabels], source: Source, place: str, whose: str
) -> CropLabels:
    """Return the labels of a sample, checked.

    Args:
        labels_of: gives them; raises a ValueError where there are others.
        source: that they are of.
        place: names what holds them.
        whose: names the format.

    Raises:
        CacheError: they cannot be used.
    """
    try:
        labels = labels_of()
        labels.check(len(source), source.classes)
    except ValueError as error:
        raise CacheError(f"{place} holds {error}; is it one of {whose}, for these data?") from error
    return labels


@runtime_checkable
class Origin(Protocol):
    """A folder of somebody else's labels."""

    program_config: ClassVar[str | None]
    """Which file beside the labels the user has to name, since it says how views were made; None
    of a format that needs none."""
    settings: ViewSettings
    """As their program renders views; the user may ask for others."""

    def __init__(self, folder: Path, source: Source, program_config: Path | None) -> None:
        """Take the labels of a folder.

        Raises:
            CacheError: it is not of this format, or its views cannot be rendered.
        """

    @staticmethod
    def check_files(folder: Path, program_config: Path | None) -> None:
        """Check what a folder says of all its files, without torch; errors as `__init__`."""

    def place(self, index: int) -> str:
        """Return how messages name what holds the labels of a sample, such as `file X`."""

    def labels(self, index: int, most_crops: int | None = None) -> CropLabels:
        """Return the labels of a sample, checked.

        Args:
            index: the sample.
            most_crops: how many of its first crops are needed; None for all.

        Raises:
            FileNotFoundError: there are none of it.
            CacheError: a file that cannot be read.
        """

    def transforms(self, digest: str, settings: ViewSettings) -> list[dict[str, Any]]:
        """Return the transforms of the recipe, after all labels were read.

        Args:
            digest: of the stored views.
            settings: how they are rendered.
        """
