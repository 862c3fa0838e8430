"""ImageNet+ and other reinforced data of Faghri et al. (ICCV 2023), as their program ml-dr writes
them: `config.pth.tar`, and for each image `NUMBER.pth.tar`, which torch.save wrote.

A file holds the number of the image in the data, and for each view its parameters, see
ml_dr_views.py, and its labels: probabilities of k classes, and the classes.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import CacheError, quoted
from kdcache.imports.ml_dr_config import CONFIG_FILE, read_augmentation
from kdcache.imports.ml_dr_views import Augmentation
from kdcache.imports.protocol import CropLabels, ViewSettings, checked_labels, stored_crop
from kdcache.imports.torch_files import read_torch_file
from kdcache.sources import Source


class MlDr:
    """A folder of reinforced data."""

    program_config: ClassVar[str | None] = None  # it lies among the labels

    def __init__(self, folder: Path, source: Source, program_config: Path | None = None) -> None:
        """Read how views were made.

        Raises:
            CacheError: that cannot be read, or views cannot be rendered from it; or there are files
                of more images than the data has.
        """
        self._folder = folder
        self._source = source
        self._augmentation = _augmentation(folder / CONFIG_FILE)
        if Path(self.file(len(source))).exists():
            raise CacheError(
                f"data {source.spec} has {len(source)} samples, and there is a file"
                f" {self.file(len(source))} of one more; give all images that the labels are of"
            )
        self.settings = ViewSettings(size=self._augmentation.size, interpolation="bilinear")

    @staticmethod
    def check_files(folder: Path, program_config: Path | None) -> None:
        """Check how views were made, without torch.

        Raises:
            CacheError: that cannot be read, or views cannot be rendered from it.
        """
        _augmentation(folder / CONFIG_FILE)

    def file(self, index: int) -> str:
        """Return where the file of a sample is."""
        return str(self._folder / f"{index}.pth.tar")

    def place(self, index: int) -> str:
        """Return how messages name the file of a sample."""
        return f"file {self.file(index)}"

    def labels(self, index: int, most_crops: int | None = None) -> CropLabels:
        """Return the labels of a sample, checked.

        Args:
            index: the sample.
            most_crops: how many of its first views are needed; None for all.

        Raises:
            FileNotFoundError: there are none of it.
            CacheError: a file that cannot be read.
        """

        def labels_of(content: Any) -> CropLabels:
            return self._labels(content, index, most_crops)

        return checked_labels(Path(self.file(index)), labels_of, self._source, "ml-dr's")

    def transforms(self, digest: str, settings: ViewSettings) -> list[dict[str, Any]]:
        """Return the transforms of the recipe: a crop with its flip, operations, a block."""
        transforms = [stored_crop(digest, settings)]
        if self._augmentation.num_operations:
            transforms.append(
                {
                    "name": "kdcache.StoredOperations",
                    "operations": self._augmentation.operations,
                    "views": digest,
                }
            )
        if self._augmentation.erases:
            transforms.append({"name": "kdcache.StoredErasing", "views": digest})
        return transforms

    def _labels(self, content: Any, index: int, most_crops: int | None) -> CropLabels:
        """Return what a file says.

        Raises:
            ValueError: it is no such file.
        """
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise ValueError("no number and views")
        number, views = content
        if number != index:
            raise ValueError(f"labels of sample {quoted(number)}, not of {index}")
        if not isinstance(views, list) or not views:
            raise ValueError("no list of views")
        parameters: list[Any] = []
        labels: list[tuple[Any, Any]] = []
        for view in views[:most_crops]:
            if not isinstance(view, dict) or not {"params", "prob"} <= view.keys():
                raise ValueError(f"{quoted(view)} where params and prob of a view are to be")
            parameters.append(view["params"])
            labels.append(_label(view["prob"], len(labels[0][0]) if labels else None))
        return CropLabels(
            views=self._augmentation.arrays(parameters),
            classes=np.array([classes for _, classes in labels], np.int32),
            probabilities=np.array([shares for shares, _ in labels], np.float32),
        )


def _augmentation(path: Path) -> Augmentation:
    """Return how views were made, as the configuration of a folder says.

    Raises:
        CacheError: it cannot be read, or views cannot be rendered from it.
    """
    try:
        return read_augmentation(read_torch_file(path))
    except FileNotFoundError as error:
        raise CacheError(
            f"there is no file {path}, which says how views were made; give the folder that ml-dr's"
            " reinforce.py wrote"
        ) from error
    except ValueError as error:
        raise CacheError(f"file {path} holds {error}") from error


def _label(value: Any, num_classes: int | None) -> tuple[Any, Any]:
    """Return the probabilities and the classes of a view, checked as far as NumPy needs.

    Args:
        value: the file's.
        num_classes: how many the first view has; None for that one.

    Raises:
        ValueError: other values, or another number of them.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"labels {quoted(value)}; they are two lists, probabilities and classes")
    shares, classes = value
    is_pair = isinstance(shares, list) and isinstance(classes, list)
    if not is_pair or not classes or len(shares) != len(classes):
        raise ValueError(f"labels {quoted(value)}; they are two lists, probabilities and classes")
    if num_classes not in (None, len(classes)):
        raise ValueError(f"{len(classes)} labels of a view, and {num_classes} of the first")
    are_shares = all(type(share) is float and 0 <= share <= 1 for share in shares)
    int32 = range(1 << 31)
    if not are_shares or not all(type(name) is int and name in int32 for name in classes):
        raise ValueError(f"labels {quoted(value)}; they are two lists, probabilities and classes")
    return shares, classes
