"""One view: (source, recipe, index, seed) -> pixels, whatever the global generators held before."""

from typing import Any

from PIL import Image

from kdcache.runtime.generators import seed_generators
from kdcache.views.pixels import crc32
from kdcache.views.recipe import Recipe
from kdcache.views.stored_views import ViewKey

Trace = list[tuple[str, int]]
"""The name of each step from the decoded image to the view, before it is mixed, and the CRC-32 of
the pixels after it."""


def trace(
    image: Image.Image, recipe: Recipe, index: int, seed: int, *, follower: Any = None
) -> Trace:
    """Return the trace of a view, drawn from the same generators.

    What follows the image may decide a draw, as boxes do where a crop is to hold some of them.
    """
    seed_generators(*recipe.key, seed, index)
    steps = []
    for name, pixels, _ in recipe.steps(image, follower, ViewKey(index, seed)):
        checksum = crc32(pixels)
        steps.append((name, checksum))
    return steps
