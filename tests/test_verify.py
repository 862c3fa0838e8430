import os
from pathlib import Path

import pytest
from caches import fill, flipped, records
from runs import dump

from kdcache.cache import Cache, open_cache
from kdcache.cache.commit import commit_key
from kdcache.cache.zarr_store import object_key
from kdcache.errors import UsageError
from kdcache.verify import verify_cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return fill(tmp_path / "cache", 0, 3)


def test_a_whole_cache_has_no_faults(cache: Cache) -> None:
    size = sum(path.stat().st_size for path in cache.folder.path.glob("seeds/*/records/c/*/0"))
    assert verify_cache(cache) == {
        "cache": str(cache.folder),
        "seeds": [0, 3],
        "units": 6,
        "bytes": size,
        "missing": {},
        "temporary": 0,
        "faults": [],
    }


@pytest.mark.parametrize("position", [0, 70, -1])
def test_a_flipped_byte_is_found(cache: Cache, position: int) -> None:
    path = cache.folder.path / object_key(3, 1)
    data = path.read_bytes()
    path.write_bytes(flipped(data, position % len(data), 0x10))
    report = verify_cache(cache)
    (fault,) = report["faults"]
    assert "seed 3, unit 1 (rows 8 to 15)" in fault and "SHA-256" in fault
    assert report["units"] == 6 and report["missing"] == {}, "the other units are checked all the same"


def test_a_deleted_object_is_found(cache: Cache) -> None:
    (cache.folder.path / object_key(0, 2)).unlink()
    (fault,) = verify_cache(cache)["faults"]
    assert "seed 0, unit 2 (rows 16 to 19)" in fault and "is missing" in fault


def test_damaged_and_foreign_commits_are_found(cache: Cache, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", 0, codec="full:dtype=float32")
    path = cache.folder.path
    (path / commit_key(0, 0)).write_bytes(other.folder.get(commit_key(0, 0)))
    (path / commit_key(0, 1)).write_bytes(cache.folder.get(commit_key(0, 2)))
    (path / commit_key(3, 2)).write_bytes(cache.folder.get(commit_key(3, 2))[:-1])
    (path / commit_key(3, 99)).write_bytes(cache.folder.get(commit_key(3, 0)))
    faults = verify_cache(cache)["faults"]
    assert len(faults) == 4
    assert "seed 0, unit 0 " in faults[0] and "were committed" in faults[0]
    assert "seed 0, unit 1 " in faults[1] and "its commit is that of seed 0, unit 2" in faults[1]
    assert "seed 3, unit 2 " in faults[2] and "the commit is damaged" in faults[2]
    assert "seed 3, unit 99 " in faults[3] and "its commit is that of seed 3, unit 0" in faults[3]


def test_missing_units_and_temporary_files_are_told_and_are_no_faults(cache: Cache) -> None:
    (cache.folder.path / commit_key(3, 0)).unlink()
    (cache.folder.path / object_key(3, 0)).with_name(".0.0123456789abcdef.tmp").write_bytes(b"half")
    cache.folder.publish(object_key(5, 0), cache.encode_unit(0, records(cache, 5, 0)))
    report = verify_cache(cache)
    assert report["faults"] == [] and report["missing"] == {3: [0]} and report["temporary"] == 1
    assert report["seeds"] == [0, 3] and report["units"] == 5


def test_an_object_that_cannot_be_read_is_a_fault(cache: Cache) -> None:
    path = cache.folder.path / object_key(0, 0)
    path.unlink()
    path.mkdir()
    (fault,) = verify_cache(cache)["faults"]
    assert "cannot read" in fault and object_key(0, 0) in fault


def test_views_are_rendered_again_and_compared(tmp_path: Path) -> None:
    dump(tmp_path / "cache", unit_rows=512)
    cache = open_cache(tmp_path / "cache")
    report = verify_cache(cache, views=10)
    assert report["faults"] == [] and report["views"] == {"checked": 10, "other_pixels": 0}
    (fault,) = verify_cache(cache, views=10, data="digits:test")["faults"]
    assert "digits:test is not the source of cache" in fault and "--data SPEC" in fault
    assert verify_cache(cache, views=3, data="digits:split=train")["faults"] == [], "the same data under another spec"


def test_verifying_writes_nothing(cache: Cache) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.folder.path.rglob("*")}
    home = set(Path(os.environ["KDCACHE_HOME"]).rglob("*"))
    verify_cache(cache)
    assert {path: path.stat().st_mtime_ns for path in cache.folder.path.rglob("*")} == before
    assert set(Path(os.environ["KDCACHE_HOME"]).rglob("*")) == home


@pytest.mark.parametrize("attack", ["os:mkdir,path={0}/executed", "torchvision:MNIST,root={0}"])
def test_nothing_that_a_cache_says_is_executed(tmp_path: Path, attack: str) -> None:
    legacy = tmp_path / "MNIST" / "processed"
    legacy.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):  # which torchvision unpickles
        (legacy / name).write_bytes(b"cos\nmkdir\n(V" + f"{tmp_path}/executed".encode() + b"\ntR.")
    made = fill(tmp_path / "cache", 0, source={"spec": attack.format(tmp_path), "fingerprint": "0"})
    with pytest.raises(UsageError, match=r"was made from .*which can run code; if you trust it: --data"):
        verify_cache(made, views=2)
    assert not (tmp_path / "executed").exists()


def test_a_lost_array_document_is_a_fault_and_the_next_dump_restores_it(tmp_path: Path) -> None:
    dump(tmp_path / "cache")
    document = tmp_path / "cache" / "seeds" / "00001" / "records" / "zarr.json"
    whole = document.read_bytes()
    document.write_bytes(whole.replace(b"1197", b"1198"))
    assert "seed 1: its array has shape (1198, 20)" in verify_cache(open_cache(tmp_path / "cache"))["faults"][0]
    document.unlink()
    assert "seed 1: zarr cannot open its array" in verify_cache(open_cache(tmp_path / "cache"))["faults"][0]
    assert dump(tmp_path / "cache")["units_written"] == 0
    assert document.read_bytes() == whole and verify_cache(open_cache(tmp_path / "cache"))["faults"] == []
