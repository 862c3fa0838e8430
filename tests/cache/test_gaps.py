"""What is missing among a few that are there, as a list would tell it, but in their memory."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.gaps import Gaps


@given(st.sets(st.integers(0, 14)), st.integers(0, 15))
def test_gaps_are_what_a_list_would_be(numbers: set[int], total: int) -> None:
    held = sorted(number for number in numbers if number < total)
    wanted = [number for number in range(total) if number not in held]
    gaps = Gaps(held, total)
    assert (
        list(gaps) == wanted == gaps
        and gaps == wanted
        and len(gaps) == len(wanted)
        and bool(gaps) == bool(wanted)
    )
    assert [gaps[at] for at in range(-len(wanted), len(wanted))] == wanted * 2 and gaps[
        1:-1
    ] == wanted[1:-1]
    assert [number in gaps for number in range(-1, total + 1)] == [
        number in wanted for number in range(-1, total + 1)
    ]
    assert [number for span in gaps.spans() for number in span] == wanted and all(gaps.spans())


def test_a_million_that_are_missing_take_no_memory() -> None:
    gaps = Gaps([3, 500_000], 1 << 20)
    assert len(gaps) == (1 << 20) - 2 and gaps[-1] == (1 << 20) - 1 and sys.getsizeof(gaps) < 100
    assert repr(gaps) == "[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, ...]"
