"""Means, standard errors and paired differences, against the formulas of other code."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.report.estimates import estimate, paired_difference

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


@given(values=VALUES)
def test_the_error_is_the_deviation_over_the_root_of_n(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.error is not None and found.count == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert found.error == pytest.approx(expected, abs=1e-9)
    assert (found.low, found.high) == (min(values), max(values))


def test_one_value_has_no_error_and_none_has_no_mean() -> None:
    single = estimate([3.0])
    assert single is not None and single.mean == 3 and single.error is None
    assert estimate([]) is None


def test_pairs_are_those_of_the_same_seed() -> None:
    found = paired_difference({0: 5.0, 1: 7.0, 2: 1.0}, {2: 2.0, 0: 4.0, 9: 0.0})
    assert found is not None
    assert found.estimate.mean == pytest.approx(0) and found.estimate.count == 2
    assert found.num_higher == 1
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairs_have_a_smaller_error_than_means_where_seeds_matter() -> None:
    values = {0: 10.0, 1: 20.0, 2: 30.0}
    others = {0: 9.0, 1: 19.1, 2: 28.9}
    difference = paired_difference(values, others)
    single = estimate([*values.values()])
    assert difference is not None and single is not None
    assert difference.estimate.error is not None and single.error is not None
    assert difference.estimate.error < single.error / 50
