"""A dump makes the units of the same rows under several seeds together: the cache is, byte by byte,
that of a dump of one seed after the other."""

from pathlib import Path
from typing import Any

import pytest
from nursery import SETTINGS, storage
from runs import IN_PROCESS, dump

from kdcache.cache import open_cache
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import Job, prepare
from kdcache.dump.shares import all_units, grouped, units_together


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of which each seed was dumped by a command of its own."""
    path = tmp_path_factory.mktemp("one") / "cache"
    for seed in range(5):
        dump(path, **{**SETTINGS, "unit_rows": 48, "seeds": f"{seed}"})
    return path


def test_together_is_as_one_by_one(one_by_one: Path, tmp_path: Path) -> None:
    dump(tmp_path, **{**SETTINGS, "unit_rows": 48, "seeds": "0:5"})
    assert storage(tmp_path) == storage(one_by_one)


def test_what_is_there_is_not_made_again(one_by_one: Path, tmp_path: Path) -> None:
    dump(tmp_path, **{**SETTINGS, "unit_rows": 48, "seeds": "2"})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seeds/2/**/*")}
    result = dump(tmp_path, **{**SETTINGS, "unit_rows": 48, "seeds": "0:5"})
    assert result["units_written"] == 4 * 3
    assert storage(tmp_path) == storage(one_by_one)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def job_of(path: Path, **changes: Any) -> Job:
    return prepare(DumpConfig(cache=str(path), compute=IN_PROCESS, **{**SETTINGS, **changes}))


def test_seeds_come_four_at_a_time_and_rows_in_order(tmp_path: Path) -> None:
    dump(tmp_path, **{**SETTINGS, "unit_rows": 48, "seeds": "0"})
    cache = open_cache(tmp_path)
    job = job_of(tmp_path, unit_rows=48, seeds="0:6")
    together = units_together(job, cache, 18, world_size=1)
    groups = grouped(all_units(job, cache, together), together)
    seeds = [[seed for seed, _ in group] for group in groups]
    assert seeds == 3 * [[0, 1, 2, 3]] + 3 * [[4, 5]]
    assert [group[0][1] for group in groups] == [0, 1, 2, 0, 1, 2]
    assert units_together(job, cache, 18, world_size=4) == 1, "all workers are busy to the end"
    assert units_together(job, cache, 180, world_size=4) == 4
