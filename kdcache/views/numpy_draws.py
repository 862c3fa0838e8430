"""Draws from numpy's generators, as TinyViT's program makes them (Wu et al., ECCV 2022).

numpy may change what its `Generator` draws from one version to the next. So known draws are
compared before the first.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.random import MT19937, PCG64, Generator

from kdcache.errors import RecipeError

Numbers = np.ndarray[Any, np.dtype[Any]]


class KnownDraw(NamedTuple):
    """What numpy drew when views were stored."""

    name: str
    draw: Callable[[], Numbers]
    expected: Sequence[float]


KNOWN_DRAWS = (
    KnownDraw(
        "PCG64(1).random",
        lambda: Generator(PCG64(1)).random(3),
        (0.5118216247002567, 0.9504636963259353, 0.14415961271963373),
    ),
    # the second of each is far out, where numpy draws in another way
    KnownDraw(
        "PCG64(5292).normal",
        lambda: Generator(PCG64(5292)).normal(size=3),
        (0.19000442457146152, -4.078929032301211, 0.19730833206523476),
    ),
    KnownDraw(
        "PCG64(1).choice",
        lambda: Generator(PCG64(1)).choice(15, 5),
        (7, 7, 11, 14, 0),
    ),
    KnownDraw(
        "MT19937(813).normal",
        lambda: Generator(MT19937(813)).normal(size=3),
        (0.2674032907587422, -3.9913002552042167, 2.1290699663320463),
    ),
)
_CLOSE = 1e-12
"""A logarithm may differ in its last bit from one processor to another."""


def check_draws(known: Sequence[KnownDraw]) -> None:
    """Check that numpy draws what it did.

    Raises:
        RecipeError: one draw is another.
    """
    for name, draw, expected in known:
        found = draw()
        if not np.allclose(found, expected, rtol=_CLOSE, atol=0):
            raise RecipeError(
                f"numpy {np.__version__} draws {found.tolist()} where {name} drew"
                f" {list(expected)} when these views were made, so that they would be others; use"
                " a version of numpy that draws the same, as 1.26 to 2.4 do"
            )


@cache
def require_known_draws() -> None:
    """Check once in a process that numpy draws what it did; errors as `check_draws`."""
    check_draws(KNOWN_DRAWS)


class NumpyDraws:
    """Draws from a generator with a seed."""

    def __init__(self, seed: int) -> None:
        """Begin to draw.

        Raises:
            RecipeError: numpy draws other numbers than it did.
        """
        require_known_draws()
        self._generator = Generator(PCG64(seed))

    def share(self) -> float:
        """Return a number from 0 to 1."""
        return self._generator.random()

    def between(self, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        return self.share() * (high - low) + low

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both among them."""
        return min(int(self.share() * (high - low + 1)) + low, high)

    def normal(self, mean: float, deviation: float) -> float:
        """Return a number of a normal distribution."""
        return self._generator.normal(mean, deviation)

    def places(self, num_things: int, count: int) -> list[int]:
        """Return which of some things are chosen, of which one may be chosen again."""
        places: list[int] = self._generator.choice(num_things, count).tolist()
        return places


def noise(seed: int, shape: tuple[int, ...]) -> Numbers:
    """Return normal noise, float64."""
    return Generator(MT19937(seed)).normal(size=shape)
