"""One view: (source, recipe, index, seed) -> pixels, whatever the global generators held before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from kdcache.shapes import View
from kdcache.views.recipe import Recipe


def draw(image: Image.Image, recipe: Recipe, index: int, seed: int) -> View:
    """Return a view of an image already decoded; the global generators are left where the transforms left them."""
    seed_generators(*recipe.key, seed, index)
    return recipe(image)


def seed_generators(*key: int) -> int:
    """Seed torch's CPU generator, numpy's and `random` from `key`, 32-bit words, and return torch's seed.

    The words are hashed together, never added: (seed 1, index 2) and (seed 2, index 1) share nothing.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    # torch.manual_seed would also visit every CUDA device and takes a hundred times as long
    seed = int(words[0]) << 32 | int(words[1])
    torch.default_generator.manual_seed(seed)
    np.random.seed(words[2])
    random.seed(int(words[3]))
    return seed


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Give the global generators back as they were: without loader workers the student's dropout draws from the same ones."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
