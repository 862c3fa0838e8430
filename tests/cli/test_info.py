"""The commands `info` and `gc` as a user meets them."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from caches import fill, manifest, records
from click.testing import CliRunner, Result

from kdcache.cache import open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.coverage import Coverage, ask_for
from kdcache.cache.formats.zarr import object_key
from kdcache.dump.worker_status import Worker
from kdcache.tools.info import Progress
from kdcache_cli.commands import main
from kdcache_cli.dump_progress import log_line, screen_lines


def kdcache(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Return a cache that was asked for six seeds: one is there, of one a unit, of four nothing."""
    cache = fill(tmp_path / "cache", 0)
    ask_for(cache, range(6))
    start_seed(cache, 3)
    commit_unit(cache, 3, 1, records(cache, 3, 1))
    return tmp_path / "cache"


def lines_of(done: Result) -> list[list[str]]:
    return [line.split(maxsplit=1) for line in done.stdout.splitlines()]


def test_what_is_missing_is_told_by_all_alike(unfinished: Path) -> None:
    shown = {tuple(line) for line in lines_of(kdcache("info", unfinished))}
    told = [
        ("seeds", "1 of 6 complete: seed 0"),
        ("seed", "3     2 of 3 units missing: 0, 2"),
        ("not", "begun  4 of 6: seeds 1 to 2, 4 to 5"),
    ]
    assert {*told, ("units", "4 of 18 (22 %), of 8 rows each")} <= shown
    assert {*told} <= {tuple(line) for line in lines_of(kdcache("verify", unfinished))}
    names = (
        "seeds",
        "complete_seeds",
        "missing",
        "seeds_not_begun",
        "units_asked",
        "units_done",
        "is_complete",
    )
    found = json.loads(kdcache("info", unfinished, "--json").stdout)
    same = {name: found[name] for name in names}
    assert (
        same["missing"] == {"3": [0, 2]}
        and same["seeds_not_begun"] == [1, 2, 4, 5]
        and not same["is_complete"]
    )
    for words in (["verify", unfinished, "--json"], ["info", unfinished, "--complete", "--json"]):
        found = json.loads(kdcache(*words).stdout)
        assert {name: found[name] for name in names} == same, words


def test_a_dependent_job_goes_by_the_exit_code(unfinished: Path) -> None:
    done = kdcache("info", unfinished, "--complete")
    assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    missing = "seed 3 lacks 2 of 3 units, seeds 1 to 2, 4 to 5 are not begun"
    assert f"is not complete: 4 of 18 units are there: {missing}; run the command" in done.stderr
    done = kdcache("info", unfinished, "--complete", "--seeds", "0:1")
    assert (
        done.exit_code == 0
        and done.stdout == f"cache {unfinished} is complete: 3 units of 1 seed\n"
    )
    assert kdcache("info", unfinished, "--complete", "--json").exit_code == 1
    assert kdcache("info", unfinished.parent / "nowhere", "--complete").exit_code == 1
    assert kdcache("verify", unfinished).exit_code == 0
    done = kdcache("verify", unfinished, "--complete")
    assert done.exit_code == 1 and missing in done.stdout and lines_of(done)[-1] == ["faults", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0:1"], "give one of them too"),
        (["--follow", "--complete"], "give one of them"),
        (["--seeds", "x"], "give"),
    ],
)
def test_settings_without_use_are_refused(unfinished: Path, words: list[str], message: str) -> None:
    done = kdcache("info", unfinished, *words)
    assert done.exit_code == 2 and message in done.stderr


def test_a_dump_is_followed_line_by_line(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(unfinished)

    def working(seconds: float) -> None:
        seed, unit = next((seed, unit) for seed in range(6) for unit in cache.missing_units(seed))
        commit_unit(cache, seed, unit, records(cache, seed, unit))

    monkeypatch.setattr(time, "sleep", working)
    lines = kdcache("info", unfinished, "--follow").stdout.splitlines()
    assert len(lines) == 15 and re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d 4/18 units \(22 %\), ", lines[0]
    )
    assert lines[0].endswith(", 1 worker at work") and "18/18 units (100 %), complete" in lines[-1]
    (line,) = kdcache(
        "info", unfinished, "--follow", "--seeds", "0:1", "--json"
    ).stdout.splitlines()
    told = json.loads(line)
    assert told["units_done"] == told["units_asked"] == 3 and [
        worker["units"] for worker in told["workers"]
    ] == [3]


def worker(number: int, **changes: Any) -> Worker:
    settings = {"name": f"n{number}:1:0123abcd:{number}", "units": 9, "pace": 6.0, "views": 256.0}
    return Worker(**{**settings, "last_seen": 3.0, "is_lost": False, **changes})


def state(
    num_seeds: int, num_units: int, held: dict[int, set[int]], *workers: Worker, rate: float = 0.0
) -> Progress:
    asked = {seed: range(num_units) for seed in range(num_seeds)}
    coverage = Coverage(manifest=manifest(rows=8 * num_units), asked=asked, held=held)
    return Progress(coverage=coverage, rate=rate, workers=list(workers))


def test_a_terminal_shows_workers_and_a_map() -> None:
    lost = worker(11, pace=None, last_seen=900.0, is_lost=True)
    old = worker(2, name="a.cluster:4242", pace=0.5)
    found = screen_lines(state(2, 20, {1: {*range(10)}}, worker(0), lost, old, rate=0.5), 80)
    assert found == [
        "10/40 units (25 %), 30.0 a minute, 60.0 s left",
        "2 workers at work, 1 lost",
        "worker         units/min  views/s   last seen",
        "rank 0 on n0        10.0     42.7       3.0 s",
        "rank 11 on n11         -        -    15.0 min  lost",
        "a.cluster:4242       120      512       3.0 s",
        "seed 0 ····················",
        "seed 1 ██████████··········",
    ]


def test_a_screen_has_eighty_columns_and_no_more_lines_than_are_read() -> None:
    many = [
        worker(number, name=f"{'long' * 20}{number}:1:0123abcd:{number}") for number in range(40)
    ]
    many.append(worker(40, is_lost=True))
    lines = screen_lines(state(100, 200, {}, *many), 80)
    assert (
        max(map(len, lines)) <= 80
        and len(lines) <= 32
        and lines[0] == "0/20000 units (0 %), none of late"
    )
    assert "rank 40 on n40" in lines[3] and lines[3].endswith("lost"), (
        "first whom someone must look for"
    )
    assert lines[14] == "and 30 more; --json lists all"
    assert screen_lines(state(1, 3, {0: {0, 1, 2}}, worker(1)), 80)[:2] == [
        "3/3 units (100 %), complete",
        "1 worker seen of late",
    ]
    nearly = state(10, 100, {seed: {*range(100 - (seed == 9))} for seed in range(10)})
    assert screen_lines(nearly, 80)[0].startswith("999/1000 units (99 %)"), "not all of them"
    line = log_line(state(1, 3, {}, worker(1), worker(2, is_lost=True, last_seen=300.0)))
    assert line.endswith(
        "none of late, 1 worker at work, 1 lost (rank 2 on n2, last seen 5.0 min ago)"
    )


def test_follow_waits_for_the_dump_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    monkeypatch.setattr(time, "sleep", lambda seconds: fill(path, 0))
    done = kdcache("info", path, "--follow")
    assert done.exit_code == 0 and "3/3 units (100 %), complete" in done.stdout
    assert f"no cache at {path} yet: waiting for its dump to begin" in done.stderr
    done = kdcache("info", tmp_path / "no" / "cache", "--follow")
    assert (
        done.exit_code == 1
        and "there is no folder" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_gc_tells_and_removes(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    key = object_key(1, 0)
    cache.storage.publish(key, b"orphaned")
    done = kdcache("gc", tmp_path / "cache")
    assert done.stdout.splitlines() == [
        "to remove  0 objects, 0 B",
        "kept       1 younger object: a writer may be at work",
    ]
    for entry in cache.storage.walk():
        os.utime(tmp_path / "cache" / entry.key, (0, 0))
    done = kdcache("gc", tmp_path / "cache")
    assert done.stdout.splitlines() == [
        f"object     {key}",
        "to remove  1 object, 8 B; --delete removes them",
    ]
    assert f"orphaned   {key}" in kdcache("verify", tmp_path / "cache").stdout.splitlines()
    assert json.loads(kdcache("gc", tmp_path / "cache", "--delete", "--json").stdout)["keys"] == [
        key
    ]
    assert not (tmp_path / "cache" / key).exists()
    assert kdcache("gc", tmp_path / "cache", "--older-than", "soon").exit_code == 2
