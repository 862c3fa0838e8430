"""What a listing tells of a cache, and how a dump comes on."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from caches import fill, manifest, records
from s3_server import environ, environment, s3_server

from kdcache.cache import create_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.coverage import Coverage, ask_for
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import Absence
from kdcache.errors import CacheError
from kdcache.tools.info import MOST_READ, Follower, Progress, describe, follow, wait_for_cache


def test_absent_rows_are_counted_where_there_can_be_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = create_cache(tmp_path / "cache", manifest(skip_unreadable=True))
    for unit in range(3):
        commit_unit(
            cache,
            0,
            unit,
            records(cache, 0, unit),
            absent=[Absence(row=8 * unit, reason="no image")],
        )
    told = describe(cache)
    assert (told["absent"], told["absent_of"], told["units"]) == (3, 3, 3)
    monkeypatch.setattr("kdcache.tools.info.MOST_READ", 2)
    told = describe(cache)
    assert (told["absent"], told["absent_of"], told["units"]) == (
        2,
        2,
        3,
    ), "of a large cache some commits are read"
    whole = fill(tmp_path / "whole", 0)
    (tmp_path / "whole" / commit_key(0, 1)).write_bytes(b"damaged")
    assert describe(whole)["units"] == 3, "no commit is read where no sample can be absent"
    assert MOST_READ == 1000


def test_a_dump_is_followed_to_its_end(tmp_path: Path) -> None:
    cache = create_cache(tmp_path / "cache", manifest())
    ask_for(cache, [0, 1])
    start_seed(cache, 3)
    commit_unit(cache, 0, 0, records(cache, 0, 0))
    states = []
    for state in follow(cache, seconds=0.01):
        states.append(state)
        missing = [(seed, unit) for seed in (0, 1, 3) for unit in cache.missing_units(seed)]
        if missing:
            commit_unit(cache, *missing[0], records(cache, *missing[0]))
    assert [state.coverage.units_done for state in states] == list(range(1, 10))
    assert {state.coverage.units_asked for state in states} == {9} and not states[0].is_complete
    assert states[0].coverage.seeds_not_begun == [1, 3] and states[0].coverage.missing == {
        0: [1, 2]
    }
    (worker,) = states[-1].workers
    assert worker.writer.process == os.getpid() and worker.units == 9 and states[-1].is_complete
    assert next(follow(cache, "0:1", seconds=1)).is_complete, "asked for one seed"
    assert next(follow(cache, "0:9", seconds=1)).coverage.units_asked == 27


def test_what_is_told_of_a_dump_has_its_units_in_the_names(tmp_path: Path) -> None:
    told = json.loads(json.dumps(Follower(fill(tmp_path / "cache", 0, 2)).look().to_json()))
    assert (told["units_done"], told["units_asked"], told["is_complete"]) == (6, 6, True)
    assert set(told) >= {"units_per_minute", "seconds_left", "seeds_not_begun", "missing"}
    (worker,) = told["workers"]
    assert (
        worker["process"] == os.getpid()
        and worker["units"] == 6
        and worker["last_seen_seconds"] < 60
    )


def test_a_rate_is_told_only_while_someone_is_at_work(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    ask_for(cache, [0, 1])
    now = time.time()
    for unit, ago in enumerate((20, 10, 0)):
        os.utime(tmp_path / "cache" / commit_key(0, unit), (now - ago, now - ago))
    state = Follower(cache).look()
    assert state.rate == pytest.approx(0.1, rel=0.3) and state.seconds_left == pytest.approx(
        30, rel=0.3
    )
    for unit, ago in enumerate((420, 410, 400)):
        os.utime(tmp_path / "cache" / commit_key(0, unit), (now - ago, now - ago))
    state = Follower(cache).look()
    assert (
        state.rate == 0
        and state.seconds_left is None
        and [worker.is_lost for worker in state.workers] == [True]
    )


def test_commits_are_read_once_and_of_a_large_cache_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(tmp_path / "cache", 0, 1)
    follower = Follower(cache)
    monkeypatch.setattr("kdcache.tools.info.MOST_READ", 4)
    old = time.time() - 300
    os.utime(tmp_path / "cache" / commit_key(0, 0), (old, old))
    (worker,) = follower.look().workers
    assert worker.units == 4
    for path in (tmp_path / "cache" / "commits").rglob("*.json"):
        status = path.stat()
        path.write_bytes(b"damaged")
        os.utime(path, (status.st_atime, status.st_mtime))
    assert [worker.name for worker in follower.look().workers] == [worker.name]


# the map of a screen


def progress(
    asked: dict[int, list[int] | range], held: dict[int, set[int]], num_units: int
) -> Progress:
    of = manifest(rows=8 * num_units)
    return Progress(coverage=Coverage(manifest=of, asked=asked, held=held), rate=0.5, workers=[])


def test_the_map_is_condensed() -> None:
    every = range(100)
    state = progress({0: every, 4: every, 8: every}, {0: {*range(100)}, 4: {*range(50)}}, 100)
    assert state.lines(10, 3) == [("0", "█" * 10), ("4", "█" * 5 + "·" * 5), ("8", "·" * 10)]
    assert state.lines(4, 2) == [("0-4", "██▒▒"), ("8", "····")]
    assert state.lines(3, 1) == [("0-8", "▓▒▒")]
    assert progress({7: range(2)}, {7: {0}}, 2).lines(10, 5) == [("7", "█·")]
    part = progress({3: [0, 5], 9: range(6)}, {3: {0, 1}, 9: {1}}, 6)
    assert part.lines(10, 5) == [
        ("3", "█    ·"),
        ("9", "·█····"),
    ], "units that nobody asked for are no gaps"


# waiting for a cache


def test_a_cache_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dump makes the folder, then a codec's fit and a temporary file, and in the end the
    manifest."""
    path = tmp_path / "cache"
    stages = iter(
        [
            path.mkdir,
            (path / "codec").mkdir,
            (path / ".zarr.json.0123456789abcdef.tmp").touch,
            lambda: fill(path, 0),
        ]
    )
    monkeypatch.setattr(time, "sleep", lambda seconds: next(stages)())
    assert wait_for_cache(str(path), seconds=1).seeds() == [0]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].endswith(
        f" no cache at {path} yet: waiting for its dump to begin"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.parent.rmdir(), r"there is no folder .*above; check the path"),
        (lambda path: path.touch(), "is a file, not a cache"),
        (
            lambda path: (path / "cat").mkdir(parents=True),
            "is not a cache, and not empty: it holds cat",
        ),
    ],
)
def test_where_no_cache_can_come_nobody_waits(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "above" / "cache"
    path.parent.mkdir()
    make(path)
    with pytest.raises(CacheError, match=message):
        wait_for_cache(str(path), seconds=1)


def test_a_bucket_that_is_not_there_is_not_waited_for() -> None:
    with (
        s3_server() as port,
        environ(**environment(port)),
        pytest.raises(CacheError, match="NoSuchBucket"),
    ):
        wait_for_cache("s3://nowhere/cache", seconds=1)
