"""How numbers are told: counts with their nouns, sizes, durations, shares, ranges."""

from collections.abc import Iterable, Sequence

_MOST_SPANS = 12


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 unit` or `3 units`."""
    return f"{number} {_form_of(number, noun)}"


def _form_of(number: int, noun: str) -> str:
    """Return a noun in its form after a number."""
    if number == 1:
        return noun
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def named(numbers: Sequence[int], noun: str) -> str:
    """Return numbers after their noun, such as `seed 3` or `seeds 0 to 4, 7`."""
    return f"{_form_of(len(numbers), noun)} {ranges(numbers)}"


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent_done(done: int, total: int) -> str:
    """Return in whole percent how much of `total` is done: 100 only if all is, 0 only if nothing
    is."""
    share = 100 * done // max(total, 1)
    if done and not share:
        return "under 1 %"
    return f"{share} %"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as `0 to 3, 7`; of very many spans the first, and how many more numbers there
    are."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = []
    for first, last in spans[:_MOST_SPANS]:
        shown.append(str(first) if first == last else f"{first} to {last}")
    if hidden := sum(last - first + 1 for first, last in spans[_MOST_SPANS:]):
        shown.append(f"and {hidden} more")
    return ", ".join(shown) or "none"
