"""Small data sets of each kind, and a view of an image, drawn without one."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdcache.runtime.generators import seed_generators
from kdcache.views import Recipe


def draw(image: Image.Image, recipe: Recipe, index: int, seed: int) -> Tensor:
    """Return a view of a decoded image; the global generators are left where the transforms left
    them."""
    seed_generators(*recipe.key, seed, index)
    return recipe(image)


class Photographs:
    """Noise of several shapes; sample i has label i."""

    classes = 3

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        noise = np.random.default_rng(index)
        pixels = noise.integers(0, 256, (64 + index, 72, 3), dtype=np.uint8)
        return Image.fromarray(pixels), index


class Scenes(Photographs):
    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        image, _ = super().__getitem__(index)
        return image, Image.new("L", image.size, index)


class Objects(Photographs):
    task = "detection"

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        image, _ = super().__getitem__(index)
        return image, {"boxes": [[4, 5, 60, 50]], "labels": [index]}


class Drawing(Photographs):
    """Its pixels are drawn from all global generators."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        parts = [
            torch.randint(256, (20, 70, 3), dtype=torch.uint8).numpy(),
            np.random.randint(0, 256, (20, 70, 3), np.uint8),
            np.frombuffer(random.randbytes(20 * 70 * 3), np.uint8).reshape(20, 70, 3),
        ]
        return Image.fromarray(np.concatenate(parts)), index
