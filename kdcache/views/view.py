"""One view: (source, recipe, index, seed) -> pixels, whatever the global generators held before."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdcache.shapes import View
from kdcache.views.recipe import Pixels, Recipe

Trace = list[tuple[str, int]]
"""The name of each step from the decoded image to the view, before it is mixed, and the CRC-32 of
the pixels after it."""


def draw(image: Image.Image, recipe: Recipe, index: int, seed: int) -> View:
    """Return a view of an image already decoded; the global generators are left where the
    transforms left them."""
    seed_generators(*recipe.key, seed, index)
    return recipe(image)


def draw_followed(
    image: Image.Image, follower: Any, recipe: Recipe, index: int, seed: int
) -> tuple[View, Any]:
    """Return the view as `draw` does, and what has followed the image, see `Recipe.render`."""
    seed_generators(*recipe.key, seed, index)
    return recipe.render(image, follower)


def trace(
    image: Image.Image, recipe: Recipe, index: int, seed: int, *, follower: Any = None
) -> Trace:
    """Return the trace of the view that `draw` would return, drawn from the same generators.

    What follows the image may decide a draw, as boxes do where a crop is to hold some of them.
    """
    seed_generators(*recipe.key, seed, index)
    steps = []
    for name, pixels, _ in recipe.steps(image, follower):
        checksum = crc32(pixels)
        steps.append((name, checksum))
    return steps


def crc32(pixels: Pixels) -> int:
    """Return the CRC-32 of an image's mode, size and bytes, or of a tensor's bytes alone."""
    if isinstance(pixels, Image.Image):
        heading = f"{pixels.mode} {pixels.width}x{pixels.height} "
        return zlib.crc32(pixels.tobytes(), zlib.crc32(heading.encode()))
    return zlib.crc32(pixels.contiguous().numpy().data)


def seed_generators(*key: int) -> int:
    """Seed torch's CPU generator, numpy's and `random` from `key`, 32-bit words, and return torch's
    seed.

    The words are hashed together, never added: (seed 1, index 2) and (seed 2, index 1) share
    nothing.
    """
    words = _words(key)
    # torch.manual_seed would also visit every CUDA device and takes a hundred times as long
    seed = words[0] << 32 | words[1]
    torch.default_generator.manual_seed(seed)
    np.random.seed(words[2])
    random.seed(words[3])
    return seed


# a key comes for the sample and again for each size of its view; the hash takes longer than all
# the seeding
@lru_cache(16)
def _words(key: tuple[int, ...]) -> list[int]:
    # numpy takes half as long to read an array as a tuple of the same words
    sequence = np.random.SeedSequence(np.array(key, np.uint32))
    words: list[int] = sequence.generate_state(4).tolist()
    return words


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Give the global generators back as they were: without loader workers the student's dropout
    draws from the same ones."""
    torch_state = torch.default_generator.get_state()
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
