"""Augmentation seeds as settings have them: `A:B`, with B left out, or several joined by commas."""

import re
from collections.abc import Iterable
from operator import index
from typing import SupportsIndex

from kdcache.errors import UsageError, quoted

_MOST_SEEDS = 100_000
_MOST_TEXT = 10_000
"""Characters of a list of seeds."""
_MOST_TIMES = 8
"""How often a student may see a view without a word. In 24 epochs, views seen 12 and 24 times cost
2.6 and 9.8 points over those seen 4 times (docs/results/photographs.md)."""
_ADVISED_TIMES = 4
_SEEDS = re.compile(r"([0-9]{1,20})(?::([0-9]{1,20}))?")


def parse_seeds(text: str, what: str = "seeds") -> list[int]:
    """Return the seeds that `A:B` (B left out), `A`, or several of these joined by commas name.

    Args:
        text: names them.
        what: messages call them.

    Raises:
        UsageError: another text, an empty range, a negative seed or one past 32 bits.
    """
    if len(text) > _MOST_TEXT:
        raise UsageError(
            f"{what} {quoted(text)} have {len(text)} characters; they may have {_MOST_TEXT}: give"
            " ranges A:B"
        )
    seeds: list[int] = []
    for part in text.split(","):
        span = _seed_span(part.strip(), text, what)
        if len(seeds) + len(span) > _MOST_SEEDS:
            raise UsageError(
                f"{what} {quoted(text)} are more than {_MOST_SEEDS}; ask for fewer at a time"
            )
        seeds += span
    return list(dict.fromkeys(seeds))


def _seed_span(part: str, text: str, what: str) -> range:
    """Return the seeds that one part of a text names, `A:B` or `A`."""
    match = _SEEDS.fullmatch(part)
    if not match:
        raise UsageError(
            f"{what} {quoted(text)} are not of the form A:B or A,B,...; 0:4 means 0, 1, 2 and 3"
        )
    first = int(match[1])
    end = first + 1
    if match[2]:
        end = int(match[2])
    if end <= first:
        raise UsageError(
            f"{what} {quoted(text)} are none: {part} ends before it begins; 0:4 means 0, 1, 2 and 3"
        )
    if end > 2**32:
        raise UsageError(f"{what} {quoted(text)} go past {2**32 - 1}, the largest that there is")
    return range(first, end)


def advised_seeds(epochs: int, num_seeds: int) -> int | None:
    """Return how many seeds a training of so many epochs is better given; None if it has enough."""
    if epochs // num_seeds <= _MOST_TIMES:
        return None
    return -(-epochs // _ADVISED_TIMES)


def seeds_text(seeds: str | Iterable[SupportsIndex]) -> str:
    """Return seeds as settings have them.

    Raises:
        UsageError: no text, and no whole numbers.
    """
    if isinstance(seeds, str):
        return seeds
    runs: list[list[int]] = []
    try:
        for number in map(index, seeds):
            if runs and number == runs[-1][1]:
                runs[-1][1] = number + 1
            else:
                runs.append([number, number + 1])
    except TypeError:
        raise UsageError(
            f"seeds is {quoted(seeds)}; it must be text such as '0:90', or whole numbers"
        ) from None
    if not runs:
        raise UsageError("seeds is an empty list; give one seed at least")
    return ",".join(f"{first}:{end}" for first, end in runs)
