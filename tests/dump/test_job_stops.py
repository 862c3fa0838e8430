"""Jobs on caches that are told to stop: the units in hand are ended, as many as are told are there,
and they go on."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hub_server import HubServer, hub_server
from runs import CONV, dump

from kdcache.cache import open_cache
from kdcache.cache.storage.folder import Folder
from kdcache.errors import StoppedError
from kdcache.tools import hub_sender
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.hub import pull_cache, push_cache
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache
from kdcache_cli.commands import main

DATA = "tiny_models:few_digits,length=120"
SETTINGS: dict[str, Any] = {
    "data": DATA,
    "teacher": f"{CONV},seed=7",
    "codec": "full:dtype=float32",
    "unit_rows": 8,
}
PLACE = "hf://datasets/lab/stopped"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of 30 units."""
    path = tmp_path_factory.mktemp("stops") / "cache"
    dump(path, **SETTINGS)
    return path


def num_commits(path: Path) -> int:
    return len(open_cache(path).units())


def at_call(
    patch: pytest.MonkeyPatch, owner: Any, name: str, count: int, is_one: Callable[..., bool]
) -> None:
    """Send this process SIGTERM after some calls of a method, in whichever thread; they do what
    they always do."""
    real, seen = getattr(owner, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if is_one(*arguments):
            seen.append(1)
            if len(seen) == count:
                os.kill(os.getpid(), signal.SIGTERM)
        return result

    patch.setattr(owner, name, call)


def at_commit(patch: pytest.MonkeyPatch, count: int) -> None:
    at_call(patch, Folder, "publish", count, lambda folder, key, data: key.startswith("commits/"))


JOBS: dict[str, Callable[[Path, Path], Any]] = {
    "dump": lambda cache, new: dump(new, **SETTINGS),
    "convert": lambda cache, new: convert_cache(
        cache, new, store="webdataset", data=DATA, images=False
    ),
    "recode": lambda cache, new: recode_cache(cache, new, codec="full:dtype=float16"),
    "merge": lambda cache, new: merge_caches(new, [cache]),
    "export": export_cache,
    "export samples": lambda cache, new: export_cache(cache, new, samples="0:100"),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_is_told_to_stop_tells_what_is_there_and_goes_on(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, path = JOBS[name], tmp_path / "new"
    whole = job(cache, tmp_path / "whole")["units_written"]
    last = 3 if whole > 4 else 1
    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        at_commit(patch, last)
        job(cache, path)
    told = re.fullmatch(
        r"stopped by SIGTERM: (\d+) units written; run the same command again to go on",
        str(caught.value),
    )
    assert told is not None and caught.value.exit_code == 143
    written = num_commits(path)
    assert last <= int(told[1]) == written < max(whole, 2)
    assert job(cache, path)["units_written"] == whole - written
    assert verify_cache(open_cache(path))["faults"] == [] and num_commits(path) == whole


def test_a_command_that_is_stopped_prints_one_line_and_has_the_exit_code_of_the_signal(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_commit(monkeypatch, 3)
    done = CliRunner().invoke(main, ["merge", str(tmp_path / "new"), str(cache)])
    assert done.exit_code == 143
    written = num_commits(tmp_path / "new")
    told = (
        f"kdcache: error: stopped by SIGTERM: {written} units written; run the same command again"
        " to go on"
    )
    assert [line for line in done.stderr.splitlines() if "error" in line] == [told]


def test_a_verification_goes_on_from_its_report(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.jsonl"
    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        at_call(patch, Folder, "get", 12, lambda folder, key: not key.startswith("commits/"))
        verify_cache(open_cache(cache), report=report)
    checked = len(report.read_text().splitlines()) - 1
    assert str(caught.value).startswith(
        f"stopped by SIGTERM: the report has {checked} of 30 units; run"
    )
    assert 0 < checked < 30
    assert verify_cache(open_cache(cache), report=report)["from_report"] == checked


def test_without_a_report_a_verification_ends_at_once_and_would_begin_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, Folder, "get", 12, lambda folder, key: not key.startswith("commits/"))
    done = CliRunner().invoke(main, ["verify", str(cache)])
    assert done.exit_code == 143
    assert done.stderr.splitlines()[-1] == "kdcache: stopped by SIGTERM"


def test_a_plan_ends_at_once(tmp_path: Path) -> None:
    words = [
        "dump-teacher",
        str(tmp_path / "cache"),
        "--data",
        DATA,
        "--teacher",
        "tiny_models:terminated,mean=0.5,std=0.25",
    ]
    done = CliRunner().invoke(
        main, [*words, "--recipe", "digits", "--workers", "0", "--device", "cpu", "--plan"]
    )
    assert done.exit_code == 143 and "stopped by SIGTERM" in done.stderr and not done.stdout
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def test_publishing_and_fetching_go_on(
    server: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_sender, "MOST_AT_ONCE", 4)
    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        at_call(patch, hub_sender.Sender, "add", 9, lambda sender, storage: True)
        push_cache(cache, PLACE)
    sent = re.match(r"stopped by SIGTERM: (\d+) objects sent", str(caught.value))
    assert sent is not None and 0 < int(sent[1]) < 60
    assert push_cache(cache, PLACE)["objects"] + int(sent[1]) >= 60
    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        at_commit(patch, 3)
        pull_cache(PLACE, tmp_path / "new")
    written = num_commits(tmp_path / "new")
    assert (
        str(caught.value).startswith(f"stopped by SIGTERM: {written} units written; ")
        and 3 <= written < 30
    )
    assert pull_cache(PLACE, tmp_path / "new")["units_written"] == 30 - written
    assert json.dumps(verify_cache(open_cache(tmp_path / "new"))["faults"]) == "[]"
