"""Orders depend on their key alone, and are the same for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.views import keyed_permutation, row_order
from kdcache.views.permutation import row_of, sorted_places

KEYS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4)


@given(st.integers(0, 300), KEYS)
def test_it_is_a_permutation_that_depends_on_the_key_only(length: int, key: list[int]) -> None:
    np.random.seed(len(key))
    order = keyed_permutation(length, *key)
    assert order.dtype == np.int64 and sorted(order) == list(range(length))
    np.random.seed(7)
    assert np.array_equal(order, keyed_permutation(length, *key))


@given(KEYS, KEYS)
def test_other_keys_give_other_orders(key: list[int], other: list[int]) -> None:
    def trimmed(
        words: list[int],
    ) -> list[int]:  # SeedSequence pads a key with zeros: (5,) and (5, 0) are one key
        return trimmed(words[:-1]) if words and words[-1] == 0 else words

    same = np.array_equal(keyed_permutation(200, *key), keyed_permutation(200, *other))
    assert same == (trimmed(key) == trimmed(other))


def test_the_order_of_a_cache_never_changes() -> None:
    """Caches on disk depend on these: with another order every record would belong to another
    sample."""
    assert row_order(12, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 11, 2, 10, 6, 4]
    assert row_order(12, 2**32 - 1).tolist() == [0, 11, 6, 7, 5, 2, 10, 8, 4, 1, 9, 3]
    assert keyed_permutation(12, 1, 5, 3).tolist() == [10, 6, 9, 2, 3, 1, 0, 5, 7, 11, 8, 4]


def test_rows_are_spread_over_the_source() -> None:
    order = row_order(10_000, 0)
    means = order.reshape(10, -1).mean(1)
    assert np.abs(means - 5_000).max() < 500, "a unit is a random subset of a sorted source"


@given(st.integers(1, 300), st.integers(0, 2**40), st.data())
def test_the_row_of_a_sample_is_found_without_the_order(
    length: int, order_seed: int, data: st.DataObject
) -> None:
    sample = data.draw(st.integers(0, length - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.views.permutation._AT_ONCE", 64)
        assert row_order(length, order_seed)[row_of(sample, length, order_seed)] == sample


@given(
    length=st.integers(0, 300),
    most=st.sampled_from([3, 300, 2**20, 2**64 - 1]),
    seed=st.integers(0, 99),
)
def test_words_that_share_their_upper_bits_are_sorted_stably(
    length: int, most: int, seed: int
) -> None:
    words = np.random.default_rng(seed).integers(0, most, length, np.uint64, endpoint=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.views.permutation._AT_ONCE", 64)
        assert np.array_equal(sorted_places(words), np.argsort(words, kind="stable"))
