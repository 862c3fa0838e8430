"""Processes that share a dump without knowing each other: shares, helpers, deaths, and who measures
the codec."""

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nursery import (
    SETTINGS,
    UNITS,
    command,
    num_committed,
    started,
    storage,
    storage_after_kill,
)
from runs import dump

from kdcache.cache import open_cache
from kdcache.cache.documents.commit import commit_key
from kdcache.dump import fitting, requests
from kdcache.dump.engines import process as engine
from kdcache.dump.shares import UnitOrder, grouped, helping_order, share

ENDLESS = 120.0
MORE = SETTINGS["data"].replace("length=128", "length=240")
units = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), unique=True)


@given(units, st.integers(1, 20))
def test_every_unit_is_in_one_share_and_shares_are_even(
    units: list[tuple[int, int]], world_size: int
) -> None:
    shares = [share(units, rank, world_size) for rank in range(world_size)]
    assert sorted(unit for one in shares for unit in one) == sorted(units)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert world_size > 1 or shares == [units]


@given(units, st.integers(1, 20))
def test_every_helper_comes_to_every_unit_and_each_begins_elsewhere(
    units: list[tuple[int, int]], world_size: int
) -> None:
    orders = [helping_order(units, rank, world_size) for rank in range(world_size)]
    assert all(sorted(order) == sorted(units) for order in orders)
    assert len({order[0] for order in orders if order}) == min(len(units), world_size)


@given(st.lists(st.integers(), unique=True), st.sets(st.integers(0, 30)))
def test_whoever_jumps_comes_to_every_unit_once(numbers: list[int], jumps: set[int]) -> None:
    todo, seen = [[(0, number)] for number in numbers], []
    order = UnitOrder(todo)
    for step, unit in enumerate(order):
        seen.append(unit)
        if step in jumps:
            order.jump()
    assert sorted(seen) == sorted(todo) and (jumps or seen == todo)


def test_a_jump_leads_elsewhere() -> None:
    firsts = set()
    for _ in range(40):
        order = UnitOrder([[(0, number)] for number in range(10)])
        order.jump()
        firsts.add(next(iter(order))[0])
    assert len(firsts) > 3


@given(units, st.integers(1, 5))
def test_groups_are_of_the_same_rows_and_keep_the_order(
    units: list[tuple[int, int]], together: int
) -> None:
    groups = grouped(units, together)
    assert [unit for group in groups for unit in group] == units
    assert all(len({number for _, number in group}) == 1 for group in groups)
    assert all(len(group) <= together for group in groups)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the objects of a cache that one process dumped."""
    path = tmp_path_factory.mktemp("alone") / "cache"
    ends_well(started(path))
    return storage(path)


def ends_well(*processes: Any) -> None:
    for process in processes:
        process.join(ENDLESS)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def wait_for_units(path: Path, count: int) -> None:
    end = time.monotonic() + ENDLESS
    while num_committed(path) < count:
        assert time.monotonic() < end, "the dump does not come on"
        time.sleep(0.002)


def slurm(rank: int, count: int) -> dict[str, str]:
    return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(count), "SLURM_LOCALID": str(rank)}


@pytest.mark.slow
def test_one_dies_and_one_that_was_never_announced_joins_late(
    alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Of three tasks of Slurm one never starts and one is killed; the third and a process started
    by hand do the rest."""
    path = tmp_path / "cache"
    dying, other = started(path, slurm(0, 3)), started(path, slurm(2, 3))
    wait_for_units(path, 5)
    joiner = started(path)
    wait_for_units(path, 10)
    dying.kill()
    ends_well(other, joiner)
    dying.join()
    assert dying.exitcode == -signal.SIGKILL, "it was too fast to be killed"
    assert storage_after_kill(path) == alone


def test_a_rank_takes_its_share_whatever_is_missing_and_then_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "data": MORE}  # so many that the seeds of a unit are made together
    units = [(seed, unit) for seed in range(3) for unit in range(30)]
    dump(tmp_path, **{**settings, "seeds": "0"})
    missing = [unit for unit in units if unit[0] > 0 or unit[1] in (2, 3, 4, 9)]
    for _, unit in missing[:4]:
        (tmp_path / commit_key(0, unit)).unlink()
    for name, value in slurm(1, 3).items():
        monkeypatch.setenv(name, value)
    assert dump(tmp_path, **settings)["units_written"] == len(missing)
    written = sorted(missing, key=lambda unit: (tmp_path / commit_key(*unit)).stat().st_mtime_ns)
    groups = [[(seed, number) for seed in range(3)] for number in range(30)]
    mine = [unit for group in groups[1::3] for unit in group if unit in missing]
    others = [unit for group in groups for unit in group if unit in missing and unit not in mine]
    assert written == mine + others[len(others) // 3 :] + others[: len(others) // 3]


@pytest.mark.slow
def test_a_worker_waits_for_the_first_to_measure_the_codec_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = {**SETTINGS, "codec": "lowrank:step=1", "seeds": "0"}
    for name, value in slurm(1, 2).items():
        monkeypatch.setenv(name, value)
    first = started(tmp_path / "cache", slurm(0, 2), **fitted)
    dump(tmp_path / "cache", **fitted)
    ends_well(first)
    told = capsys.readouterr().err
    assert (
        ": waits for the cache, whose codec rank 0 measures; at most 900 s" in told
        and "itself" not in told
    )
    monkeypatch.setattr(fitting, "FIT_SECONDS", 0.2)
    dump(tmp_path / "orphaned", **fitted)
    assert ": measures the codec itself: no cache in" in capsys.readouterr().err
    assert storage(tmp_path / "orphaned") == storage(tmp_path / "cache")
    monkeypatch.setattr(fitting, "FIT_SECONDS", ENDLESS)
    dump(tmp_path / "exact", **{**fitted, "codec": SETTINGS["codec"]})
    assert "waits for the cache" not in capsys.readouterr().err, "nothing is measured"


def slow(folder: Path) -> str:
    return SETTINGS["teacher"].replace("conv,", f"counted,log={folder / 'log'},seconds=0.03,")


@pytest.mark.slow
def test_two_that_go_the_same_way_do_not_do_the_same_work(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    ends_well(*[started(path, data=MORE, teacher=slow(tmp_path)) for _ in range(2)])
    assert num_committed(path) == 90
    least = 2 * 90  # batches
    assert least <= (tmp_path / "log").stat().st_size <= 1.5 * least


def test_who_comes_upon_what_another_has_done_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 units that were missing when it began, others have made all but one."""
    settings = {**SETTINGS, "seeds": "0"}
    dump(tmp_path, **settings)
    num_units = num_committed(tmp_path)
    (tmp_path / commit_key(0, num_units // 2)).unlink()
    monkeypatch.setattr(engine, "not_committed", lambda _, units: list(units))
    jumps: list[UnitOrder] = []
    jump = UnitOrder.jump

    def counted_jump(order: UnitOrder) -> None:
        jumps.append(order)
        jump(order)

    monkeypatch.setattr(UnitOrder, "jump", counted_jump)
    assert num_units > 3 and dump(tmp_path, **settings)["units_written"] == 1
    made, helped = num_units - 1, num_units
    assert len(jumps) == made + helped


def test_a_unit_that_another_commits_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker's commit of the second of three units appears when its first batches are
    through."""
    monkeypatch.setattr(requests, "LOOK_SECONDS", 0.0)
    settings = {**SETTINGS, "data": MORE, "seeds": "0", "unit_rows": 80}
    settings["teacher"] = slow(tmp_path)
    other, path, log, key = (
        tmp_path / "other",
        tmp_path / "cache",
        tmp_path / "log",
        commit_key(0, 1),
    )
    dump(other, **settings)
    batches = log.stat().st_size
    shutil.copytree(other, path)
    for unit in range(3):
        (path / commit_key(0, unit)).unlink()
    later = threading.Thread(target=appear, args=(log, batches + 22, other / key, path / key))
    later.start()
    assert dump(path, **settings)["units_written"] == 2
    later.join()
    assert log.stat().st_size < 2 * batches - 5
    assert (path / key).read_bytes() == (other / key).read_bytes() and open_cache(
        path
    ).complete_seeds() == [0]


def appear(log: Path, size: int, theirs: Path, ours: Path) -> None:
    """Let a commit appear once a file has grown."""
    while log.stat().st_size < size:
        time.sleep(0.001)
    shutil.copy(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_worker_that_is_told_to_stop_ends_its_commit_and_tells_how_many(
    alone: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    """With its loader workers, to which the signal goes as well."""
    path = tmp_path / "cache"
    options = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in {**SETTINGS, "teacher": slow(tmp_path)}.items()
    ]
    words = ["dump-teacher", str(path), *options, "--device=cpu", "--workers=2"]
    process = command(*words, folder=tmp_path, method="fork")
    wait_for_units(path, 5)
    process.stop_all(signal.Signals[name])
    code, _, err = process.end(ENDLESS)
    told = (
        f"kdcache: error: stopped by {name}: {num_committed(path)} units written; run the same"
        " command again to go on"
    )
    assert (
        code == 128 + signal.Signals[name] and err.splitlines()[-1] == told and "killed" not in err
    ), err
    assert 5 <= num_committed(path) < len(UNITS)
    ends_well(started(path, teacher=slow(tmp_path)))
    assert storage(path) == alone


@pytest.mark.slow
def test_torchrun_starts_the_dead_again(alone: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "cache"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    words = ["dump-teacher", str(path), *options, "--workers=0", "--device=cpu"]
    launcher = command(*words, folder=tmp_path, processes=2, restarts=3)
    try:
        wait_for_units(path, 5)
        os.kill(launcher.worker(1), signal.SIGKILL)
    finally:
        code, out, err = launcher.end(ENDLESS)
    assert code == 0, err
    assert "via signal" in err, "it was too fast to be killed"
    assert storage_after_kill(path) == alone
    assert out.count("cache  ") == 1 and out.count("kdcache train-student") == 1, (
        "rank 0 prints the result"
    )
    for rank in range(2):
        told = rf"^[-\d]+ [:\d]+ rank {rank} of 2 on \S+: "
        assert (
            len(
                re.findall(
                    rf"{told}\d+ units? written here; the dump is complete$", err, re.MULTILINE
                )
            )
            == 1
        )
        share = r"on cpu; its share is 24 of 48 units, \d+ are there$"
        assert re.search(rf"{told}dump into {re.escape(str(path))} {share}", err, re.MULTILINE)
        assert re.search(rf"{told}opens data and teacher for the dump into", err, re.MULTILINE)
