"""The size of a recipe's views: a side, height and width, or as large as their images."""

from math import prod
from typing import Any

from kdcache.errors import RecipeError, brief, quoted
from kdcache.shapes import MOST_PIXELS, MOST_SIDE, Size, as_size, size_text

_WHOLE = "image"


def checked_size(size: Any, name: str) -> Size | None:
    """Return the size that a recipe's table says, or None for `image`.

    Raises:
        RecipeError: anything else than a side, height and width, or `image`; or too many pixels.
    """
    if size == _WHOLE:
        return None
    numbers = size
    if isinstance(size, int):
        numbers = (size, size)
    if isinstance(size, str) or len(numbers) != 2 or min(numbers) < 1:
        raise RecipeError(
            f"recipe {brief(name)}: size is {quoted(size)}; it must be a number of pixels, [height,"
            f" width] or {_WHOLE!r}"
        )
    if max(numbers) > MOST_SIDE or prod(numbers) > MOST_PIXELS:
        raise RecipeError(
            f"recipe {brief(name)}: size is {quoted(size)}; a side may have {MOST_SIDE} pixels, a"
            f" view {MOST_PIXELS}"
        )
    return as_size(numbers)


def size_entry(size: Size | None) -> str | int | list[int]:
    """Return a size as a table has it."""
    if size is None:
        return _WHOLE
    if isinstance(size, int):
        return size
    return list(size)


def pixels_text(size: Size) -> str:
    """Return a size as messages say it."""
    if isinstance(size, int):
        return str(size)
    return size_text(size)
