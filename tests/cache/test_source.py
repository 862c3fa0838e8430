"""Images and labels of a webdataset cache: those that were committed, or an error; and copies that
stay while they are used."""

import gc
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from map_caches import made
from runs import dump, losses, train
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import open_cache
from kdcache.cache.local_units import LocalUnits
from kdcache.cache.slab_folder import SlabFolder
from kdcache.cache.source import CachedSource, views_of
from kdcache.errors import DamagedUnitError, KdcacheError, SourceError
from kdcache.loader.opening import CHECKED_VIEWS
from kdcache.runtime import images
from kdcache.runtime.device import ComputeConfig
from kdcache.sources import open_source
from kdcache.sources.tar_reader import TarReader
from kdcache.verify.views import probed_commits

DATA = "tiny_models:few_digits,length=120"
TARS: dict[str, Any] = {
    "data": DATA,
    "store": "webdataset",
    "unit_rows": 16,
    "codec": "full:dtype=float32",
    "seeds": "0:1",
}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tars") / "cache"
    dump(path, **TARS)
    return path


@pytest.fixture
def copied(tars: Path, tmp_path: Path) -> Path:
    shutil.copytree(tars, tmp_path / "cache")
    return tmp_path / "cache"


def changed(path: Path, suffix: str, change: Callable[[bytes], bytes]) -> str:
    """Change the first member of a tar whose name ends so, in place; return its name."""
    data = path.read_bytes()
    member = next(member for member in TarReader.of(data).members() if member.name.endswith(suffix))
    stop = member.offset + member.size
    path.write_bytes(data[: member.offset] + change(data[member.offset : stop]) + data[stop:])
    return member.name


def tar_not_probed(path: Path) -> Path:
    """Return a tar of which a training renders no view before it begins, and so does not read."""
    cache = open_cache(path)
    probed = {commit.unit for commit in probed_commits(cache, [0], CHECKED_VIEWS)}
    unit = next(unit for unit in range(cache.manifest.num_units) if unit not in probed)
    return path / cache.commit_of(0, unit).key


def other_label(label: bytes) -> bytes:
    return str((int(label) + 1) % 10).encode()


def other_byte(image: bytes) -> bytes:
    return image[:60] + bytes([image[60] ^ 1]) + image[61:]


CHANGES = {".cls": other_label, ".png": other_byte, ".records.npy": other_byte}


@pytest.mark.parametrize("suffix", CHANGES)
@pytest.mark.parametrize("loss", ["dist:tau=4", "ce"])
def test_what_was_changed_after_a_first_training_stops_the_next(
    copied: Path, tmp_path: Path, suffix: str, loss: str
) -> None:
    shared: dict[str, Any] = {
        "cache": str(copied),
        "data": None,
        "batch_size": 24,
        "epochs": 1,
        "loss": loss,
    }
    train(tmp_path / "first", **shared)
    changed(copied / "shards" / "00000-00000" / "000003.tar", suffix, CHANGES[suffix])
    with pytest.raises(DamagedUnitError, match=r"unit 3 .*SHA-256"):
        train(tmp_path / "second", **shared)


def test_bytes_that_changed_without_a_trace_are_noticed_when_they_are_read(
    copied: Path, tmp_path: Path
) -> None:
    """As of a disk that gives other bytes, or a file whose times were set back."""
    shared: dict[str, Any] = {"cache": str(copied), "data": None, "batch_size": 24, "epochs": 1}
    train(tmp_path / "first", **shared)
    path = tar_not_probed(copied)
    before = path.stat()
    changed(path, ".png", other_byte)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for workers in (0, 2):
        with pytest.raises(
            SourceError,
            match=r"sample \d+ \(\d+\) of cache.*: its bytes differ from what was committed",
        ):
            train(
                tmp_path / f"{workers}",
                **shared,
                compute=ComputeConfig(workers=workers, device="cpu"),
            )


def test_files_of_images_have_a_limit_that_dumps_keep_and_readers_ask_for(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert images.MOST_STORED_BYTES == 128 << 20
    monkeypatch.setattr(images, "MOST_STORED_BYTES", 80)
    source = CachedSource(open_cache(copied))
    told = r"its file has \d+ B; those of images in a cache have at most 80 B"
    with pytest.raises(
        SourceError, match=rf"sample 0 \(0+\) of cache:.*: {told}; give --data SPEC"
    ):
        source.sample(0)
    with pytest.raises(SourceError, match=rf"{told}; make it smaller, or leave images out"):
        dump(tmp_path / "new", **TARS)


def test_a_label_that_was_changed_is_noticed(copied: Path) -> None:
    source = CachedSource(open_cache(copied))
    assert {source.sample(index).target for index in range(len(source))} == {*range(10)}
    path = tar_not_probed(copied)
    before = path.stat()
    changed(path, ".cls", other_label)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = CachedSource(open_cache(copied))
    with pytest.raises(SourceError, match="its bytes differ from what was committed"):
        for index in range(len(again)):
            again.sample(index)


def test_a_mask_that_was_changed_is_noticed(tmp_path: Path, recipe: str) -> None:
    made(tmp_path / "cache", recipe, store="webdataset")
    source = CachedSource(open_cache(tmp_path / "cache"))
    samples = [source.sample(index) for index in range(len(source))]
    assert all(sample.target.size == sample.image.size for sample in samples)  # type: ignore[union-attr]
    path = next((tmp_path / "cache" / "shards").rglob("*.tar"))
    before = path.stat()
    changed(path, ".mask.png", other_byte)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = CachedSource(open_cache(tmp_path / "cache"))
    with pytest.raises(SourceError, match="its bytes differ from what was committed"):
        for index in range(len(again)):
            again.sample(index)


def test_a_tar_is_read_once_for_all_runs_on_a_machine(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared: dict[str, Any] = {
        "cache": str(copied),
        "data": None,
        "batch_size": 24,
        "epochs": 1,
        "loss": "ce",
    }
    slabs = SlabFolder(tmp_path / "slabs")
    train(tmp_path / "first", **shared, slab_dir=str(tmp_path / "slabs"))
    times = {path.name: path.stat().st_mtime_ns for path in slabs.path.glob("*.index")}
    assert len(times) == 8
    train(tmp_path / "second", **shared, slab_dir=str(tmp_path / "slabs"))
    assert {path.name: path.stat().st_mtime_ns for path in slabs.path.glob("*.index")} == times
    for path in slabs.path.glob("*.index"):
        path.write_bytes(b"damaged")
    train(tmp_path / "third", **shared, slab_dir=str(tmp_path / "slabs"))
    assert losses(tmp_path / "third") == losses(tmp_path / "first")


def test_images_are_read_without_a_folder_for_indexes(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache, plain = open_cache(copied), open_source(DATA)
    cache.slabs = SlabFolder(tmp_path / "file")
    source = CachedSource(cache)
    assert [source.sample(index).target for index in range(120)] == [
        plain.sample(index).target for index in range(120)
    ]


def test_a_copy_stays_while_it_is_used_whatever_room_others_want(
    tars: Path, tmp_path: Path
) -> None:
    with s3_server() as port, environ(**environment(port)):
        url = f"s3://{BUCKET}/pinned/cache"
        dump(url, **TARS)
        cache = open_cache(url)
        cache.slabs = SlabFolder(tmp_path, limit=0)
        units, commits = LocalUnits(cache), cache.commits(0)
        for commit in commits[:3]:
            units.fetch(commit)
        assert len([*cache.slabs.path.glob("*.tar")]) == 3
        units.release(commits[1])
        SlabFolder(tmp_path, limit=0).evict()
        assert sorted(int(path.stem[-6:]) for path in cache.slabs.path.glob("*.tar")) == [0, 2]
        again = LocalUnits(cache)
        again.fetch(commits[0])
        units.release(commits[0])
        SlabFolder(tmp_path, limit=0).evict()
        assert sorted(int(path.stem[-6:]) for path in cache.slabs.path.glob("*.tar")) == [
            0,
            2,
        ], "another uses it still"

        needed = sum(commit.num_bytes for commit in commits) / 1e9
        shared: dict[str, Any] = {
            "cache": url,
            "data": None,
            "batch_size": 24,
            "window": 2,
            "loss": "ce",
        }
        compute = ComputeConfig(workers=2, device="cpu")
        train(
            tmp_path / "bucket",
            **shared,
            compute=compute,
            slab_limit=needed,
            slab_dir=str(tmp_path / "small"),
        )
        train(tmp_path / "folder", **{**shared, "cache": str(tars)})
        assert losses(tmp_path / "bucket") == losses(tmp_path / "folder")
        with pytest.raises(KdcacheError, match="windows of units are needed at once"):
            train(
                tmp_path / "none",
                **shared,
                compute=compute,
                slab_limit=needed / 2,
                slab_dir=str(tmp_path / "small"),
            )


def test_the_order_of_records_does_not_depend_on_where_images_come_from(tars: Path) -> None:
    cache, source = open_cache(tars), CachedSource(open_cache(tars))
    keys = [source.key(int(index)) for index in cache.order]
    samples = [
        sample.key
        for commit in cache.commits(0)
        for sample in cache.samples_of(commit, cache.unit_bytes(commit))
    ]
    assert keys == samples and len(np.unique(keys)) == 120


def test_a_damaged_tar_leaves_no_file_open(copied: Path) -> None:
    cache = open_cache(copied)
    tar = copied / cache.commit_of(0, 0).key
    changed(tar, ".records.npy", other_byte)
    source = CachedSource(cache)
    index = int(cache.order[0])
    before = len([*Path("/dev/fd").iterdir()])
    for _ in range(5):
        with pytest.raises(DamagedUnitError, match="its bytes differ from what was committed"):
            source.sample(index)
        assert source.key(index) == f"{index:08d}"
    assert len([*Path("/dev/fd").iterdir()]) == before


@pytest.mark.parametrize("preferred", [0, 1])
def test_a_tar_of_another_seed_serves_for_a_damaged_one(tmp_path: Path, preferred: int) -> None:
    settings = {**TARS, "seeds": "0:2", "seeds_per_unit": 1}
    dump(tmp_path / "cache", **settings)
    cache = open_cache(tmp_path / "cache")
    index = int(cache.order[0])
    right = CachedSource(cache).stored(index)
    changed(tmp_path / "cache" / cache.commit_of(0, 0).key, ".records.npy", other_byte)
    source = CachedSource(open_cache(tmp_path / "cache"))
    source.units.prefer(preferred)
    assert source.stored(index) == right


def test_tars_are_closed_with_their_source_and_do_not_travel(tars: Path) -> None:
    def num_open() -> int:
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()])

    before = num_open()
    for _ in range(3):
        views = views_of(tars)
        views.batch([(row, 0) for row in range(0, 120, 16)])
        assert num_open() > before
        other = pickle.loads(pickle.dumps(views))  # noqa: S301
        assert torch.equal(other.batch([(0, 0)]).views[0], views.batch([(0, 0)]).views[0])
        del views, other
        assert num_open() == before
