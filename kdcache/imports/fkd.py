"""The soft labels of FKD (Shen and Xing, ECCV 2022) and FerKD (Shen, ICCV 2023): a file for each
image, which torch.save wrote.

It holds a list of three: boxes `[crops, 4]` (top, left, height and width in shares of the image),
whether each crop is flipped `[crops]`, and labels. Labels are `[crops, 2, k]`: k classes, then
their probabilities; with k = 1 also `[crops, 2]`. Numbers are float32 or float16.
"""

from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import CacheError
from kdcache.imports.ml_dr_config import CONFIG_FILE
from kdcache.imports.plain_pickle import array_of
from kdcache.imports.protocol import CropLabels, ViewSettings, checked_labels, stored_crop
from kdcache.sources import Source
from kdcache.views.stored_arrays import BOXES, FLIPS

_PARTS = 3


class Fkd:
    """A folder of FKD's files, which lie as the images do: `CLASS/NAME.tar`."""

    program_config: ClassVar[str | None] = None
    settings = ViewSettings(size=224, interpolation="bilinear")

    def __init__(self, folder: Path, source: Source, program_config: Path | None = None) -> None:
        self._folder = folder
        self._source = source

    @staticmethod
    def check_files(folder: Path, program_config: Path | None) -> None:
        """Check that a folder is not of ml-dr's; else its files alone say what they are.

        Raises:
            CacheError: it is.
        """
        if (folder / CONFIG_FILE).is_file():
            raise CacheError(
                f"folder {folder} holds {CONFIG_FILE}, which ml-dr writes: give format ml-dr"
            )

    def file(self, index: int) -> str:
        """Return where the file of a sample is: under the image's name up to its first dot."""
        key = PurePosixPath(self._source.key(index))
        stem, _, _ = key.name.partition(".")
        return str(self._folder / key.with_name(f"{stem}.tar"))

    def place(self, index: int) -> str:
        """Return how messages name the file of a sample."""
        return f"file {self.file(index)}"

    def labels(self, index: int, most_crops: int | None = None) -> CropLabels:
        """Return the labels of a sample, checked.

        Args:
            index: the sample.
            most_crops: has no effect, since all of a file's arrays are read together.

        Raises:
            FileNotFoundError: there are none of it.
            CacheError: a file that cannot be read.
        """
        return checked_labels(Path(self.file(index)), _labels, self._source, "FKD's")

    def transforms(self, digest: str, settings: ViewSettings) -> list[dict[str, Any]]:
        """Return the transforms of the recipe: a crop with its flip."""
        return [stored_crop(digest, settings)]


def _labels(content: Any) -> CropLabels:
    """Return what the list of a file says.

    Raises:
        ValueError: it is no such list.
    """
    if not isinstance(content, list | tuple) or len(content) != _PARTS:
        raise ValueError("no list of boxes, flips and labels")
    boxes, flips, labels = map(array_of, content)
    if flips.ndim != 1 or boxes.shape != (len(flips), 4) or len(labels) != len(flips):
        raise ValueError(
            f"boxes of shape {boxes.shape}, flips of shape {flips.shape} and labels of shape"
            f" {labels.shape}"
        )
    if labels.ndim == 1:
        raise ValueError("hard labels, one class a crop, which say nothing of the other classes")
    if labels.ndim == 2:
        labels = labels[..., None]
    if labels.ndim != 3 or labels.shape[1] != 2 or not labels.size:
        raise ValueError(f"labels of shape {labels.shape}, where [crops, 2, k] is to be")
    numbers = labels[:, 0].astype(np.float64)
    is_whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
    if not is_whole or np.abs(numbers).max() > np.iinfo(np.int32).max:
        raise ValueError("labels whose classes are no whole numbers")
    return CropLabels(
        views={
            BOXES: boxes.astype(np.float32),
            FLIPS: (flips != 0).astype(np.uint8),
        },
        classes=numbers.astype(np.int32),
        probabilities=labels[:, 1].astype(np.float32),
    )
