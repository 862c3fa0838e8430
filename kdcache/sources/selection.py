"""Some samples of a source, as users name them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from kdcache.errors import UsageError, quoted
from kdcache.runtime.text_files import Line, read_lines
from kdcache.shapes import Rows

_MOST_NAMED = 10
"""Numbers that a message lists."""


@runtime_checkable
class Named(Protocol):
    """What tells the names of samples."""

    spec: str

    def __len__(self) -> int:
        """Return the number of samples."""

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""


Samples: TypeAlias = str | Sequence[int] | Rows
"""How users name samples: by numbers in the source's order, as `A:B` or one by one, or by the path
of a text file with a key on each line."""


def are_numbers(samples: Samples) -> bool:
    """Return whether samples are named by numbers, and not by a file of keys."""
    if not isinstance(samples, str):
        return True
    first, colon, last = samples.partition(":")
    return bool(colon) and first.isdecimal() and last.isdecimal()


def samples_text(samples: Samples) -> str:
    """Return how messages name samples."""
    if isinstance(samples, str):
        return samples
    texts = [str(number) for number in samples[:_MOST_NAMED]]
    if len(samples) > _MOST_NAMED:
        texts.append("...")
    return f"[{', '.join(texts)}]"


def parse_samples(samples: Samples, length: int, names: Callable[[], Named]) -> Rows:
    """Return the numbers of samples, int64.

    Args:
        samples: as users name them.
        length: of the source.
        names: gives the names of its samples; asked only where there is a file.

    Raises:
        UsageError: a text that is neither, samples that there are not, or none.
    """
    if not isinstance(samples, str):
        return _given_numbers(samples, length)
    if are_numbers(samples):
        return _numbers_between(samples, length)
    return _numbers_of_keys(samples, _keys(samples), names(), length)


def check_samples(text: str, length: int | None) -> None:
    """Check what names samples, as far as that takes no source.

    Args:
        text: see `parse_samples`.
        length: of the source, if it is known.

    Raises:
        UsageError: see `parse_samples`.
    """
    if not are_numbers(text):
        _keys(text)
    elif length is not None:
        _numbers_between(text, length)


def _keys(text: str) -> list[Line]:
    """Return the lines of a file of keys."""
    if not Path(text).exists():
        raise UsageError(
            f"samples {text!r} are neither A:B nor a text file with a key on each line"
        )
    lines = read_lines(text, "samples")
    if not lines:
        raise UsageError(f"samples {text} names none")
    return lines


def _numbers_of_keys(text: str, lines: Sequence[Line], source: Named, length: int) -> Rows:
    """Return the numbers of the samples whose keys a file has on its lines."""
    places: dict[str, int] = {}
    repeated_keys: set[str] = set()
    for index in range(length):
        key = source.key(index)
        if key in places:
            repeated_keys.add(key)
        places[key] = index
    numbers = []
    for number, key in lines:
        if key in repeated_keys:
            raise UsageError(
                f"samples {text}, line {number}: several samples have the key {quoted(key)}; give"
                " numbers, A:B"
            )
        if key not in places:
            raise UsageError(
                f"samples {text}, line {number}: source {source.spec} has no sample {quoted(key)};"
                f" keys are such as {source.key(0)!r}"
            )
        numbers.append(places[key])
    return np.array(numbers)


def _given_numbers(samples: Sequence[int] | Rows, length: int) -> Rows:
    """Return numbers that are given one by one.

    Raises:
        UsageError: there is none, or one is of no sample.
    """
    numbers = np.asarray(samples)
    if not numbers.size:
        raise UsageError("samples is an empty list; give one sample at least, or leave it out")
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UsageError(
            f"samples is an array of {numbers.dtype} of shape {numbers.shape}; it must be a list of"
            " whole numbers (np.flatnonzero makes them of truths)"
        )
    outside = numbers[(numbers < 0) | (numbers >= length)]
    if len(outside):
        raise UsageError(
            f"samples has {outside[0]}, and the source has {length} samples, numbered from 0 on"
        )
    return numbers.astype(np.int64)


def _numbers_between(text: str, length: int) -> Rows:
    """Return the numbers that `A:B` means."""
    first, _, last = text.partition(":")
    if not int(first) < int(last) <= length:
        raise UsageError(
            f"samples {text!r} are none, or past the last of {length}; 0:100 means the first"
            " hundred"
        )
    return np.arange(int(first), int(last))
