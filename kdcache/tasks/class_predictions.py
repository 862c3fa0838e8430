"""The likeliest classes of images, a line each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.runtime.tables import Column, write_table
from kdcache.shapes import Logits
from kdcache.tasks.predictions import PredictionSettings
from kdcache.views import Batch

_MOST_SHOWN = 5
"""Classes of an image, where the user does not say how many."""


class ClassPredictions:
    """The likeliest classes of each image with their probabilities, in a table."""

    def __init__(self, settings: PredictionSettings) -> None:
        """Begin with no image.

        Raises:
            UsageError: more classes are to be told than there are.
        """
        self._settings = settings
        self._count = _count_shown(settings.top_k, len(settings.class_names))
        self._keys: list[str] = []
        self._classes = [np.empty((0, self._count), np.int64)]
        self._probabilities = [np.empty((0, self._count), np.float32)]

    def read(self, output: Logits, batch: Batch) -> list[Tensor]:
        """Return the probabilities of the likeliest classes, the largest first, and which these
        are, each `[views, top]`."""
        probabilities = torch.softmax(output.float(), dim=1)
        return list(probabilities.topk(self._count, dim=1))

    def add(self, fetched: Sequence[Tensor], batch: Batch, keys: Mapping[int, str]) -> None:
        """Take a batch."""
        probabilities, classes = fetched
        places = list(keys)
        self._keys += keys.values()
        self._classes.append(classes[places].numpy())
        self._probabilities.append(probabilities[places].numpy())

    def write(self) -> dict[str, Any]:
        """Write the table, and return `top_k`.

        Raises:
            KdcacheError: the file cannot be written.
        """
        names = self._settings.class_names
        classes = np.concatenate(self._classes)
        probabilities = np.concatenate(self._probabilities)
        columns: dict[str, Column] = {"key": self._keys}
        for place in range(self._count):
            numbers = classes[:, place].tolist()
            columns[f"class_{place + 1}"] = [names[number] for number in numbers]
            columns[f"probability_{place + 1}"] = probabilities[:, place]
        write_table(self._settings.out, columns)
        return {"top_k": self._count}


def _count_shown(top_k: int | None, num_classes: int) -> int:
    """Return how many classes of each image are told.

    Raises:
        UsageError: more are asked for than there are.
    """
    if top_k is None:
        return min(_MOST_SHOWN, num_classes)
    if top_k > num_classes:
        raise UsageError(
            f"top_k is {top_k}, and the model has {num_classes} classes; ask for as many at most"
        )
    return top_k
