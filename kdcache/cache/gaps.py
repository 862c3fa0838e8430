"""The numbers that are missing among others, in memory for those that are there: a cache may say
that it has a million."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import overload


class Gaps(Sequence[int]):
    """The numbers from 0 to `total` - 1 that are not among some, rising."""

    def __init__(self, present: Sequence[int], total: int) -> None:
        """Take the numbers that are there, which rise, each once, all below `total`."""
        self._present = present
        self._total = total

    def __len__(self) -> int:
        """Return how many are missing."""
        return self._total - len(self._present)

    def __iter__(self) -> Iterator[int]:
        """Yield what is missing."""
        for gap in self.spans():
            yield from gap

    def __contains__(self, number: object) -> bool:
        """Return whether a number is missing."""
        if not isinstance(number, int) or not 0 <= number < self._total:
            return False
        at = bisect_left(self._present, number)
        is_present = at < len(self._present) and self._present[at] == number
        return not is_present

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        """Return the number at a place among those that are missing."""
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = at
        if at < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(at)
        num_present = bisect_left(
            range(len(self._present)), place + 1, key=self._num_missing_before
        )
        return place + num_present

    def _num_missing_before(self, index: int) -> int:
        """Return how many numbers are missing before one that is there."""
        return self._present[index] - index

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same numbers."""
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(map(int.__eq__, self, other))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the numbers as a list shows them, of many the first."""
        beginning = repr(self[:10])
        if len(self) <= 10:
            return beginning
        return f"{beginning[:-1]}, ...]"

    def spans(self) -> Iterator[range]:
        """Yield what is missing as ranges."""
        start = 0
        for number in self._present:
            if start < number:
                yield range(start, number)
            start = number + 1
        if start < self._total:
            yield range(start, self._total)
