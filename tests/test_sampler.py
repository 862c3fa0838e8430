"""The order of an epoch: a permutation of the rows that are there, by (run seed, epoch) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.sampler import EpochSampler, epoch_rows, num_steps
from kdcache.shapes import Rows

NONE: Rows = np.empty(0, np.int64)


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_epoch_is_every_row_that_is_there_once(length: int, absent: set[int], run_seed: int, epoch: int) -> None:
    gone = np.array(sorted(row for row in absent if row < length), dtype=np.int64)
    torch.manual_seed(len(gone))
    np.random.seed(len(gone))
    rows = epoch_rows(length, gone, run_seed=run_seed, epoch=epoch)
    assert sorted(rows) == sorted(set(range(length)) - set(gone.tolist()))
    whole = epoch_rows(length, NONE, run_seed=run_seed, epoch=epoch)
    assert rows.tolist() == [row for row in whole.tolist() if row not in absent], "what is absent does not move the others"


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 999), st.integers(0, 999))
def test_other_runs_and_epochs_have_other_orders(seed: int, other: int, epoch: int, following: int) -> None:
    first, second = (epoch_rows(100, NONE, run_seed=s, epoch=e) for s, e in ((seed, epoch), (other, following)))
    assert np.array_equal(first, second) == ((seed, epoch) == (other, following))
    assert not np.array_equal(epoch_rows(100, NONE, run_seed=1, epoch=2), epoch_rows(100, NONE, run_seed=2, epoch=1))


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps"), [(0, 4, 0), (1, 4, 1), (3, 4, 1), (4, 4, 1), (7, 4, 1), (8, 4, 2), (9, 1, 9)]
)
def test_a_last_batch_that_is_not_full_is_dropped_unless_it_is_the_only_one(rows: int, batch_size: int, steps: int) -> None:
    sampler = EpochSampler(batch_size)
    order = np.arange(rows)[::-1].copy()
    sampler.set_epoch(order, 5)
    batches = list(sampler)
    assert len(batches) == len(sampler) == num_steps(rows, batch_size) == steps
    flat = [view for batch in batches for view in batch]
    assert flat == [(row, 5) for row in order.tolist()[: len(flat)]]
    assert len(flat) == (rows if rows < batch_size else steps * batch_size)


def test_the_next_epoch_takes_its_rows_and_seed() -> None:
    sampler = EpochSampler(2)
    assert list(sampler) == []
    for seed in (1, 2):
        sampler.set_epoch(np.array([seed, seed + 1]), seed)
        assert list(sampler) == [[(seed, seed), (seed + 1, seed)]]
        assert all(type(word) is int for batch in sampler for view in batch for word in view)
