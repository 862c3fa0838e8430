"""What a listing tells of a cache, and how a dump comes on."""

import os
import time
from pathlib import Path

import pytest
from caches import fill, manifest, records

from kdcache.cache import create_cache
from kdcache.cache.commit import commit_key
from kdcache.cache.objects import Entry
from kdcache.cache.writing import commit_unit, start_seed
from kdcache.info import MOST_READ, Follower, Progress, describe, follow, rate_of


def test_absent_rows_are_counted_where_there_can_be_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = create_cache(tmp_path / "cache", manifest(skip_unreadable=True))
    for unit in range(3):
        commit_unit(cache, 0, unit, records(cache, 0, unit), absent=[{"row": 8 * unit, "reason": "no image"}])
    told = describe(cache)
    assert (told["absent"], told["absent_of"], told["units"]) == (3, 3, 3)
    monkeypatch.setattr("kdcache.info.MOST_READ", 2)
    told = describe(cache)
    assert (told["absent"], told["absent_of"], told["units"]) == (2, 2, 3), "of a large cache some commits are read"
    whole = fill(tmp_path / "whole", 0)
    (tmp_path / "whole" / commit_key(0, 1)).write_bytes(b"damaged")
    assert describe(whole)["units"] == 3, "no commit is read where no sample can be absent"
    assert MOST_READ == 1000


def test_a_dump_is_followed_to_its_end(tmp_path: Path) -> None:
    config = '[dump-teacher]\nseeds = "0:2"\n'
    cache = create_cache(tmp_path / "cache", manifest(made_by={"config": config}))
    for seed in (0, 3):
        start_seed(cache, seed)
    commit_unit(cache, 0, 0, records(cache, 0, 0))
    states = []
    for state in follow(cache, seconds=0.01):
        states.append(state)
        missing = [(seed, unit) for seed in (0, 1, 3) for unit in cache.missing_units(seed)]
        if missing:
            commit_unit(cache, *missing[0], records(cache, *missing[0]))
    assert [state.done for state in states] == list(range(1, 10)) and {state.total for state in states} == {9}
    assert states[0].map == {0: [0], 1: [], 3: []} and not states[0].is_complete
    (name,) = states[-1].workers
    assert name.endswith(f":{os.getpid()}") and states[-1].workers[name] == 9 and states[-1].is_complete
    assert next(follow(cache, "0:1", seconds=1)).is_complete, "asked for one seed"
    assert next(follow(cache, "0:9", seconds=1)).total == 27


def test_workers_are_told_apart_and_forgotten(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    assert list(Follower(cache).look().workers.values()) == [3]
    old = time.time() - 3600
    for unit in range(2):
        os.utime(tmp_path / "cache" / commit_key(0, unit), (old, old))
    assert list(Follower(cache).look().workers.values()) == [1]


def test_the_rate_is_that_of_late() -> None:
    now = 10_000.0

    def entries(*ago: float) -> list[Entry]:
        return [Entry("", 0, now - seconds) for seconds in ago]

    assert rate_of([], now) == 0
    assert rate_of(entries(20, 10, 0), now) == pytest.approx(0.1), "two after the first, in 20 seconds"
    assert rate_of(entries(*range(0, 6000, 60)), now) == pytest.approx(1 / 60, rel=0.01)
    assert rate_of(entries(3600, 3590), now) == 0
    state = Progress(30, 90, 0.5, {}, {})
    assert state.seconds_left == 120 and Progress(30, 90, 0, {}, {}).seconds_left is None


def test_the_map_is_condensed() -> None:
    every = list(range(100))
    state = Progress(0, 0, 0, {}, {0: every, 4: every[:50], 8: []}, 100)
    assert state.lines(10, 3) == [("0", "█" * 10), ("4", "█" * 5 + "·" * 5), ("8", "·" * 10)]
    assert state.lines(4, 2) == [("0-4", "██▒▒"), ("8", "····")]
    assert state.lines(3, 1) == [("0-8", "▓▒▒")]
    assert Progress(0, 0, 0, {}, {7: [0]}, 2).lines(10, 5) == [("7", "█·")]
