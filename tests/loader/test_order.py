"""The order of an epoch: a permutation of the rows that are there, by (run seed, epoch) alone,
however it is divided."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.loader.order import EpochSampler, Split, epoch_views, num_steps
from kdcache.shapes import Rows
from kdcache.views import Recipe, load_recipe, partners

PLAIN = load_recipe("digits")
MIXING = Recipe("mixes", {"size": 8, "transforms": [], "mixing": {"mixup": 1.0, "block": 16}})


def rows_of(length: int, absent: set[int]) -> Rows:
    return np.array([row for row in range(length) if row not in absent], dtype=np.int64)


@given(
    st.integers(1, 200),
    st.sets(st.integers(0, 199)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 1000),
)
def test_an_epoch_is_every_row_that_is_there_once(
    length: int, absent: set[int], run_seed: int, epoch: int
) -> None:
    torch.manual_seed(len(absent))
    np.random.seed(len(absent))
    there = rows_of(length, absent)
    key = {"run_seed": run_seed, "epoch": epoch}
    views = epoch_views(there, length, [7], PLAIN, **key)
    assert sorted(views[:, 0]) == there.tolist() and (views[:, 1] == 7).all()
    whole = epoch_views(rows_of(length, set()), length, [7], PLAIN, **key)
    expected = [row for row in whole[:, 0].tolist() if row not in absent]
    assert views[:, 0].tolist() == expected, "what is absent does not move the others"


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 999), st.integers(0, 999)
)
def test_other_runs_and_epochs_have_other_orders(
    seed: int, other: int, epoch: int, following: int
) -> None:
    def order(run_seed: int, epoch: int) -> Rows:
        return epoch_views(np.arange(100), 100, [0], PLAIN, run_seed=run_seed, epoch=epoch)

    assert np.array_equal(order(seed, epoch), order(other, following)) == (
        (seed, epoch) == (other, following)
    )
    assert not np.array_equal(order(1, 2), order(2, 1))


@given(st.integers(1, 100), st.sets(st.integers(0, 99), max_size=30), st.integers(0, 50))
def test_those_that_are_mixed_stand_side_by_side(length: int, absent: set[int], epoch: int) -> None:
    there = rows_of(length, absent)
    order = epoch_views(there, length, [3], MIXING, run_seed=0, epoch=epoch)[:, 0]
    assert sorted(order) == there.tolist()
    assert MIXING.mixing is not None
    partner_of = partners(length, MIXING.mixing, MIXING.key, 3)
    paired = [row for row in order.tolist() if partner_of[row] in there and partner_of[row] != row]
    assert order.tolist()[: len(paired)] == paired, "those without a partner come last"
    assert all(
        partner_of[one] == other for one, other in zip(paired[::2], paired[1::2], strict=True)
    )


@given(st.integers(1, 60), st.integers(2, 4), st.integers(0, 20))
def test_of_repeated_rows_fewer_come_under_each_seed(length: int, count: int, epoch: int) -> None:
    seeds = list(range(10, 10 + count))
    views = epoch_views(np.arange(length), length, seeds, PLAIN, run_seed=0, epoch=epoch)
    assert len(views) == length, "an epoch stays as long as it was"
    assert len({tuple(view) for view in views.tolist()}) == length
    for row in set(views[:, 0].tolist()):
        mine = views[views[:, 0] == row]
        assert mine[:, 1].tolist() == seeds[: len(mine)], (
            "on end, under each seed; only the last row may lack some"
        )


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps"),
    [(0, 4, 0), (1, 4, 1), (3, 4, 1), (4, 4, 1), (7, 4, 1), (8, 4, 2), (9, 1, 9)],
)
def test_a_last_batch_that_is_not_full_is_dropped_unless_it_is_the_only_one(
    rows: int, batch_size: int, steps: int
) -> None:
    sampler = EpochSampler(Split(batch_size=batch_size))
    views = np.stack([np.arange(rows)[::-1], np.full(rows, 5)], axis=1)
    sampler.set_epoch(views)
    batches = list(sampler)
    assert len(batches) == len(sampler) == num_steps(rows, batch_size) == sampler.num_steps == steps
    flat = [view for batch in batches for view in batch]
    assert flat == [tuple(view) for view in views.tolist()[: len(flat)]]
    assert len(flat) == (rows if rows < batch_size else steps * batch_size)
    assert all(type(word) is int for view in flat for word in view)


@given(
    st.integers(0, 150),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 12),
)
def test_processes_and_parts_divide_each_step_among_them(
    rows: int, processes: int, parts: int, first: int
) -> None:
    size = 72
    views = np.stack([np.arange(rows), np.arange(rows) % 3], axis=1)
    samplers = [
        EpochSampler(Split(batch_size=size, parts=parts, process=process, processes=processes))
        for process in range(processes)
    ]
    if 0 < rows < parts * processes:
        with pytest.raises(UsageError, match=f"an epoch has {rows} views, and a step is of"):
            samplers[0].set_epoch(views)
        return
    for sampler in samplers:
        sampler.set_epoch(views, first_step=min(first, num_steps(rows, size)))
    batches = [list(sampler) for sampler in samplers]
    assert len({len(mine) for mine in batches}) == 1, "equal steps everywhere"
    done = min(first, num_steps(rows, size))
    for step in range(num_steps(rows, size) - done):
        of_step = [
            view
            for mine in batches
            for batch in mine[step * parts : (step + 1) * parts]
            for view in batch
        ]
        wanted = views.tolist()[(done + step) * size : (done + step + 1) * size]
        wanted = wanted[: len(wanted) - len(wanted) % (parts * processes)]
        assert sorted(of_step) == sorted(map(tuple, wanted))
        assert len({len(batch) for mine in batches for batch in mine}) == 1, "equal shares"


def test_a_batch_that_does_not_divide_is_told() -> None:
    with pytest.raises(
        UsageError,
        match="batch_size is 50, which does not divide among 4 processes and 1 accumulated parts",
    ):
        Split(batch_size=50, processes=4)
