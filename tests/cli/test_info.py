"""The commands `info` and `gc` as a user meets them."""

import json
import os
import time
from pathlib import Path

import pytest
from caches import fill, records
from click.testing import CliRunner, Result

from kdcache.cache.writing import commit_unit
from kdcache.cache.zarr_store import object_key
from kdcache.info import Progress
from kdcache_cli.commands import main
from kdcache_cli.info import _screen

MADE_BY = {"created": "2026-11-24", "versions": {"kdcache": "0"}, "config": '[dump-teacher]\nseeds = "0:2"\n'}


def kdcache(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_dump_is_followed_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fill(tmp_path / "cache", 0, made_by=MADE_BY)

    def working(seconds: float) -> None:
        (unit, *_) = cache.missing_units(1)
        commit_unit(cache, 1, unit, records(cache, 1, unit))

    monkeypatch.setattr(time, "sleep", working)
    lines = kdcache("info", tmp_path / "cache", "--follow").stdout.splitlines()
    assert len(lines) == 4 and lines[0].startswith("3/6 units (50 %), ") and lines[0].endswith("1 worker in the last 10 min")
    assert lines[3].startswith("6/6 units (100 %), complete")
    (line,) = kdcache("info", tmp_path / "cache", "--follow", "--seeds", "0:1", "--json").stdout.splitlines()
    told = json.loads(line)
    assert told["done"] == told["total"] == 3 and list(told["workers"].values()) == [3]
    assert kdcache("info", tmp_path / "cache", "--seeds", "0:1").exit_code == 2


def test_a_terminal_shows_workers_and_a_map() -> None:
    halves = {seed: list(range(10 * seed)) for seed in range(2)}
    lines = _screen(Progress(10, 40, 0.5, {"a:1": 7, "b:2": 3}, halves, 20), 80)
    assert lines == [
        "10/40 units (25 %), 30.0 a minute, 60.0 s left",
        "2 workers in the last 10 min: a:1 (7), b:2 (3)",
        "seed 0 ····················",
        "seed 1 ██████████··········",
    ]
    many = Progress(10, 2000, 0.0, {}, {seed: [] for seed in range(100)}, 200)
    lines = _screen(many, 80)
    assert len(lines) <= 18 and max(map(len, lines)) <= 80 and lines[0] == "10/2000 units (0 %), none of late"


def test_gc_tells_and_removes(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0, made_by=MADE_BY)
    key = object_key(1, 0)
    cache.objects.publish(key, b"orphaned")
    done = kdcache("gc", tmp_path / "cache")
    assert done.stdout.splitlines() == [
        "to remove  0 objects, 0 B",
        "kept       1 that are younger: their writers may be at work",
    ]
    for entry in cache.objects.walk():
        os.utime(tmp_path / "cache" / entry.key, (0, 0))
    done = kdcache("gc", tmp_path / "cache")
    assert done.stdout.splitlines() == [f"object     {key}", "to remove  1 objects, 8 B; --delete removes them"]
    assert kdcache("verify", tmp_path / "cache").stdout.splitlines()[1] == f"orphaned  {key}"
    assert json.loads(kdcache("gc", tmp_path / "cache", "--delete", "--json").stdout)["keys"] == [key]
    assert not (tmp_path / "cache" / key).exists()
    assert kdcache("gc", tmp_path / "cache", "--older-than", "soon").exit_code == 2
