"""Loaders of tiny views, and a process that ends while its workers are busy.

It imports little, for one test runs it in a fresh Python.
"""

import sys
import time
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from tiny_models import Noise

from kdcache.config.spec import Spec
from kdcache.sources import DatasetSource
from kdcache.views import ViewDataset, ViewLoader, load_recipe


class SlowNoise(Noise):
    """Noise of which each image takes a while to read."""

    def __init__(self, length: int, seconds: float) -> None:
        super().__init__(length, size=8)
        self.seconds = seconds
        # labels that are listed are known without reading an image
        self.targets = np.arange(length) % self.classes

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        time.sleep(self.seconds)
        return super().__getitem__(index)


def loader_of(data: Any, workers: int = 2) -> ViewLoader:
    dataset = ViewDataset(
        DatasetSource(data, Spec("data")), load_recipe("digits"), np.arange(len(data)), sizes=[8]
    )
    requests = [[(row, 0)] for row in range(len(data))]
    return ViewLoader(dataset, requests, workers=workers, pin_memory=False)


def end_early() -> NoReturn:
    """Leave while the workers of one loader wait, and those of another are busy."""
    batches = iter(loader_of(SlowNoise(40, seconds=0.0)))
    next(batches)
    busy = loader_of(SlowNoise(40, seconds=3600.0))
    busy._start()
    sys.exit(3)
