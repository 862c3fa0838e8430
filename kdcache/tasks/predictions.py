"""What a model sees in images, on its way from the device to files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kdcache.sources import AnnotationIds
from kdcache.views import Batch


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """What is written, and where."""

    out: Path
    """The file, or the folder."""
    class_names: Sequence[str]
    """Of all classes of the model."""
    keys: Sequence[str]
    """Of all images."""
    ids: AnnotationIds | None = None
    """Of all images and classes, if they are annotated."""
    top_k: int | None = None
    """How many classes of each image are told; by default 5, or all if there are fewer."""
    threshold: float | None = None
    """The score from which a detection is told; by default all are that the detector gives."""


@runtime_checkable
class Predictions(Protocol):
    """The predictions of one model, batch by batch."""

    def read(self, output: Any, batch: Batch) -> list[Tensor]:
        """Return what is to be fetched from the device.

        Args:
            output: what the model gives of the batch.
            batch: the views, on the host.
        """

    def add(self, fetched: Sequence[Tensor], batch: Batch, keys: Mapping[int, str]) -> None:
        """Take a batch.

        Args:
            fetched: what `read` gave, on the host.
            batch: the views.
            keys: of the images that could be read, by their places in the batch.
        """

    def write(self) -> dict[str, Any]:
        """Write what is not written yet, and return what there is, by name."""
