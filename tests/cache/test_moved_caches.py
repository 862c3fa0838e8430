"""Caches that are moved, removed or replaced while a job writes into them: it stops, and says
so."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import fill
from hub_server import hub_server
from nursery import SETTINGS
from runs import IN_PROCESS, dump
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import open_cache
from kdcache.cache.committing import commit_unit, require_written
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.dump.engines.ray_maker import Maker
from kdcache.dump.plan import plan_dump
from kdcache.dump.run import DumpConfig
from kdcache.errors import CacheError, KdcacheError
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.hub import pull_cache, push_cache
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache

Job = Callable[[Path, Path], dict[str, Any]]
SMALL = {
    **SETTINGS,
    "data": "tiny_models:noise,length=64,size=32",
    "seeds": "0:2",
    "batch_size": 8,
}
"""Sixteen units."""
PLACE = "hf://datasets/lab/logits"
JOBS: dict[str, Job] = {
    "dump": lambda old, new: dump(new, **SMALL),
    "convert": lambda old, new: convert_cache(
        old, new, store="webdataset", data=SMALL["data"], images=False
    ),
    "recode": lambda old, new: recode_cache(old, new, codec="full:dtype=float16"),
    "merge": lambda old, new: merge_caches(new, [old]),
    "export": export_cache,
    "pull": lambda old, new: pull_cache(PLACE, new),
}
GONE = (
    "is no longer there: it has lost its manifest|was moved or removed while this job wrote into it"
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small dump."""
    path = tmp_path_factory.mktemp("old") / "cache"
    dump(path, **SMALL)
    return path


@pytest.fixture(params=JOBS)
def job(
    request: pytest.FixtureRequest, old: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Job]:
    """Return each job in turn; a hub that holds the dump runs for the one that needs it."""
    with hub_server() as server:
        if request.param == "pull":
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            monkeypatch.setenv("HF_TOKEN", "hf_test")
            push_cache(old, PLACE)
        yield JOBS[request.param]


class Disturbance:
    """Does something to a folder right after a number of its units were committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.number, self.action = folder, -1, lambda: None
        self.lock, self.count, self.link = threading.Lock(), 0, os.link
        monkeypatch.setattr(os, "link", self._link)

    action: Callable[[], object]

    def after(self, number: int, action: Callable[[], object]) -> None:
        self.number, self.action = number, action

    def _link(self, source: Any, target: Any) -> None:
        self.link(source, target)
        if not Path(target).is_relative_to(self.folder / "commits"):
            return
        with self.lock:
            self.count += 1
            is_now = self.count == self.number
        if is_now:
            self.action()


def test_a_folder_that_is_moved_stops_the_job_and_is_not_made_anew(
    job: Job, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, moved = tmp_path / "new", tmp_path / "moved"
    Disturbance(monkeypatch, new).after(1, lambda: new.rename(moved))
    with pytest.raises(CacheError, match=GONE) as caught:
        job(old, new)
    assert "\n" not in str(caught.value) and not new.exists()
    moved.rename(new)
    assert job(old, new)["units_written"] < len(open_cache(new).units())


def test_a_manifest_that_is_removed_stops_the_job(
    job: Job, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first commit, and after the last one: then there is no other that would notice."""
    job(old, tmp_path / "whole")
    total = len(open_cache(tmp_path / "whole").units())
    for number in {1, total}:
        new = tmp_path / f"new{number}"
        with monkeypatch.context() as patch:
            Disturbance(patch, new).after(number, (new / MANIFEST).unlink)
            with pytest.raises(CacheError, match=GONE):
                job(old, new)
        assert not (new / MANIFEST).exists()
        assert len([*new.glob("commits/*/*.json")]) < total or number == total, "it stops at once"


def test_another_cache_in_its_place_gets_no_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, other = tmp_path / "new", tmp_path / "other"
    fill(other, classes=7)

    def replace() -> None:
        new.rename(tmp_path / "moved")
        other.rename(new)

    Disturbance(monkeypatch, new).after(1, replace)
    with pytest.raises(CacheError, match="was moved or removed"):
        dump(new, **SMALL)
    assert open_cache(new).units() == [] and len(open_cache(tmp_path / "moved").units()) == 1


def test_another_manifest_in_its_place_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, other = tmp_path / "new", tmp_path / "other"
    fill(other, classes=7)
    Disturbance(monkeypatch, new).after(1, lambda: (other / MANIFEST).replace(new / MANIFEST))
    with pytest.raises(
        CacheError, match=r"another manifest is in its place\. Nothing more is written"
    ):
        dump(new, **SMALL)
    assert len([*(new / "commits").rglob("*.json")]) == 1


def test_the_same_manifest_restored_is_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"

    def restore() -> None:
        data = (new / MANIFEST).read_bytes()
        (new / MANIFEST).unlink()
        (new / MANIFEST).write_bytes(data)

    Disturbance(monkeypatch, new).after(1, restore)
    assert dump(new, **SMALL)["units_written"] == len(open_cache(new).units())


def test_a_unit_that_is_lost_meanwhile_is_no_success(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    Disturbance(monkeypatch, new).after(16, (new / commit_key(1, 3)).unlink)
    with pytest.raises(
        CacheError, match=r"lacks 1 units that were written, the first is seed 1, unit 3 "
    ):
        export_cache(old, new)


def test_in_a_bucket_too() -> None:
    with s3_server() as port, environ(**environment(port)):
        cache = fill(f"s3://{BUCKET}/cache", 0)
        require_written(cache, [(0, 0), (0, 1), (0, 2)])
        cache.storage.remove(MANIFEST)
        records = cache.read_unit(cache.commit_of(0, 0))
        with pytest.raises(CacheError, match=GONE):
            commit_unit(cache, 1, 0, records)
        assert not cache.is_committed(1, 0) and not cache.storage.exists(cache.format.key(1, 0))


def test_a_worker_on_ray_begins_no_cache(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = open_cache(old).manifest.digest
    config = DumpConfig(cache=str(tmp_path / "new"), compute=IN_PROCESS, **SMALL)
    with pytest.raises(CacheError, match="is not a cache"):
        Maker().start(config, str(tmp_path), digest)
    assert not (tmp_path / "new").exists()
    fill(tmp_path / "new")
    with pytest.raises(KdcacheError, match=r"finds another cache in .*/new than the command"):
        Maker().start(config, str(tmp_path), digest)


def test_what_cannot_be_written_is_told_before_the_teacher_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DumpConfig(
        cache="/proc/kdcache/cache", compute=IN_PROCESS, **{**SMALL, "teacher": "nothing"}
    )
    with pytest.raises(
        CacheError, match=r"cannot write /proc/kdcache/cache: .*choose a folder that can be written"
    ):
        dump("/proc/kdcache/cache", **{**SMALL, "teacher": "nothing"})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        CacheError, match=r"cannot write /proc/kdcache/cache: /proc cannot be written"
    ):
        plan_dump(config)


def test_what_is_no_cache_is_told_before_the_teacher_is_opened(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    settings = {**SMALL, "teacher": "nothing"}
    for action in (dump, lambda path, **changes: plan_dump(DumpConfig(cache=str(path), **changes))):
        with pytest.raises(CacheError, match="is not empty and not a cache"):
            action(tmp_path, **settings)


def test_a_plan_makes_nothing(tmp_path: Path) -> None:
    plan_dump(DumpConfig(cache=str(tmp_path / "a" / "cache"), compute=IN_PROCESS, **SMALL))
    assert list(tmp_path.iterdir()) == []


def test_a_complete_cache_that_is_read_only_is_only_read(
    job: Job, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    job(old, new)
    make_read_only(new, monkeypatch)
    assert job(old, new)["units_written"] == 0


def test_a_dump_that_would_grow_a_read_only_cache_tells_it_first(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(old, monkeypatch)
    assert plan_dump(DumpConfig(cache=str(old), compute=IN_PROCESS, **SMALL))["units_done"] == 16
    with pytest.raises(CacheError, match="Read-only file system"):
        dump(old, **{**SMALL, "seeds": "0:3", "teacher": "nothing"})


def test_a_copy_that_would_grow_a_read_only_cache_tells_it_first(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    export_cache(old, new, seeds="0:1")
    make_read_only(new, monkeypatch)
    for grow in (lambda: export_cache(old, new), lambda: merge_caches(new, [old])):
        with pytest.raises(CacheError, match=r"cannot write .*/new.*: Read-only file system"):
            grow()


def test_each_job_tries_it_out_first(
    job: Job, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(tmp_path, monkeypatch)
    with pytest.raises(
        CacheError, match=r"cannot write .*/new: Read-only file system; choose a folder"
    ):
        job(old, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_recoding_tries_it_out_before_its_codec_is_fitted(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_read_only(tmp_path, monkeypatch)
    with pytest.raises(
        CacheError, match=r"cannot write .*/new: Read-only file system; choose a folder"
    ):
        recode_cache(old, tmp_path / "new", codec="lowrank:step=1")
    assert "measuring" not in capsys.readouterr().err


def make_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing below a folder be changed, as on a file system that is mounted so; root may write
    all others."""

    def refusing(real: Callable[..., Any], is_change: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *others: Any, **named: Any) -> Any:
            if (
                not isinstance(path, int)
                and Path(path).is_relative_to(folder)
                and is_change(*others)
            ):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *others, **named)

        return call

    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    monkeypatch.setattr(os, "open", refusing(os.open, lambda flags, *_: bool(flags & writes)))
    for name in ("mkdir", "link", "unlink", "rename"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), lambda *_: True))
