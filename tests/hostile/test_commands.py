"""Hostile caches through the commands: each ends in one line or in honest success, soon, and within
200 MB."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import manifest
from hostile import commands
from hostile.forge import (
    STORE,
    change_commit,
    change_manifest,
    change_object,
    chunk,
    shard,
    tars,
    zarr,
)
from hostile.pictures import pictures
from hostile.tar_members import members, special
from hub_server import hub_server
from nursery import Program

from kdcache.cache import create_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key

MOST_MEGABYTES = 200
MOST_SECONDS = 2.0
"""Of the processor, beyond the start: others on this machine take time, too."""
GIGABYTE = 1 << 30


def sparse(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(GIGABYTE)


def rows_by_the_hundred_million(path: Path) -> None:
    cache = create_cache(path, manifest(rows=400_000_000, unit_rows=65_536, chunk_rows=8192))
    start_seed(cache, 0)
    commit_unit(cache, 0, 0, np.zeros(65_536, cache.manifest.dtype))


def units_by_the_million(path: Path) -> None:
    cache = create_cache(path, manifest(rows=1 << 20, unit_rows=1, chunk_rows=1))
    start_seed(cache, 0)
    commit_unit(cache, 0, 0, np.zeros(1, cache.manifest.dtype))


def seeds_by_the_thousand(path: Path) -> None:
    create_cache(path, manifest(**{**STORE, "seeds_per_unit": 1 << 16, "has_images": False}))
    for group in range(5):
        key = path / commit_key(group << 16, 0)
        key.parent.mkdir(parents=True)
        key.write_bytes(b"{}")


def object_of_a_gigabyte(path: Path) -> None:
    cache = zarr(path)
    key = cache.commit_of(0, 0).key
    sparse(path / key)
    change_commit(
        path,
        num_bytes=GIGABYTE,
        sha256="49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14",
    )


def documents_of_a_gigabyte(path: Path) -> None:
    zarr(path)
    sparse(path / "seeds/00000/records/zarr.json")
    sparse(path / commit_key(0, 1))


def orphans_of_a_gigabyte(path: Path) -> None:
    zarr(path)
    (path / commit_key(0, 2)).unlink()
    sparse(path / "seeds/00000/records/c/2/0")
    sparse(path / "seeds/00009/records/c/0/0")


def tar_of_a_gigabyte(path: Path) -> None:
    cache = tars(path, has_images=False)
    sparse(path / cache.commit_of(0, 0).key)
    change_commit(path, num_bytes=GIGABYTE, sha256="0" * 64)


def tars_with_images_of_a_gigabyte(path: Path) -> None:
    cache = tars(path)
    for unit in range(2):
        os.truncate(path / cache.commit_of(0, unit).key, GIGABYTE)
        change_commit(path, unit, num_bytes=GIGABYTE, sha256="0" * 64)


def orphaned_tar_of_a_gigabyte(path: Path) -> None:
    cache = tars(path)
    key = cache.commit_of(0, 1).key
    os.truncate(path / key, GIGABYTE)
    (path / commit_key(0, 1)).unlink()


def image_of_a_quarter_gigabyte(path: Path) -> None:
    """Make a tar that is as it should be but for its digest."""
    cache = tars(path)
    key = path / cache.commit_of(0, 0).key
    data = key.read_bytes()
    size = GIGABYTE // 4
    huge = tarfile.TarInfo("a%2F0.png")
    huge.size = size
    with key.open("wb") as file:
        file.write(huge.tobuf(tarfile.PAX_FORMAT))
        file.seek(size, os.SEEK_CUR)
        file.write(data[1024:])
    # the first read of a hole costs a virtual machine's host up to two seconds, on the same account
    with key.open("rb") as file:
        while file.read(1 << 20):
            pass
    change_commit(path, num_bytes=key.stat().st_size, sha256="0" * 64)


def keys_by_the_hundred_thousand(path: Path) -> None:
    path.mkdir()
    keys = ",".join(f'"{number}":0' for number in range(900_000))
    (path / "zarr.json").write_text('{"attributes": {"kdcache": {' + keys + "}}}")


def absent_by_the_hundred_thousand(path: Path) -> None:
    zarr(path)
    change_commit(path, absent=[{"row": 1, "reason": "?"}] * 100_000)


def names_that_are_long(path: Path) -> None:
    zarr(path)
    change_manifest(path, lambda document: document.update({"x" * 900_000: 1}))


def texts_that_are_long(path: Path) -> None:
    zarr(path)
    change_manifest(path, lambda document: document["source"].update(spec="x" * 900_000))


def folders_in_a_tar(path: Path) -> None:
    cache = tars(path)
    folder = members(special("a", b"5"))[:512]
    data = folder * 20_000 + bytes(1024)
    (path / cache.commit_of(0, 0).key).write_bytes(data)
    change_commit(path, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def folders_in_folders(path: Path) -> None:
    zarr(path)
    below = os.open(path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=below)
        below, above = os.open("d", os.O_RDONLY, dir_fd=below), below
        os.close(above)
    os.close(below)


def two_seeds_in_a_shard(path: Path) -> None:
    zarr(path)
    change_manifest(path, lambda document: document.update(seeds_per_unit=2))


def numbers_that_are_huge(path: Path) -> None:
    cache = create_cache(path, manifest("full:dtype=uint8"))
    start_seed(cache, 0)
    for unit in range(3):
        records = np.zeros(len(cache.manifest.unit_range(unit)), cache.manifest.dtype)
        records["scale"] = records["offset"] = 3e38
        commit_unit(cache, 0, unit, records)


def seeds_without_end(path: Path) -> None:
    config = '[dump-teacher]\nseeds = "' + ",".join("0:1000000" for _ in range(90)) + '"\n'
    zarr(path, made_by={"config": config})


def toml_without_end(path: Path) -> None:
    zarr(path, made_by={"config": "a" + ".a" * 30_000 + " = 1\n"})


def other_data(path: Path) -> None:
    zarr(path, source={"spec": f"segfolder:{path},classes=/dev/zero", "fingerprint": "0" * 64})


def evaluation_by_a_file(path: Path) -> None:
    os.mkfifo(path.parent / "wait.toml")
    pictures(path, [], eval=str(path.parent / "wait.toml"))


def pixels_without_end(path: Path) -> None:
    pictures(path, [{"name": "Pad", "padding": [16_000, 16_000]}])


def chunk_that_is_a_bomb(path: Path) -> None:
    zarr(path)
    change_object(path, shard([chunk(bytes(1 << 20)), chunk(bytes(40))]))


MAKERS: list[tuple[Callable[[Path], None], str]] = [
    (rows_by_the_hundred_million, "zarr"),
    (units_by_the_million, "zarr"),
    (seeds_by_the_thousand, "webdataset"),
    (object_of_a_gigabyte, "zarr"),
    (documents_of_a_gigabyte, "zarr"),
    (orphans_of_a_gigabyte, "zarr"),
    (tar_of_a_gigabyte, "webdataset"),
    (tars_with_images_of_a_gigabyte, "webdataset"),
    (orphaned_tar_of_a_gigabyte, "webdataset"),
    (image_of_a_quarter_gigabyte, "webdataset"),
    (keys_by_the_hundred_thousand, "zarr"),
    (absent_by_the_hundred_thousand, "zarr"),
    (names_that_are_long, "zarr"),
    (texts_that_are_long, "zarr"),
    (folders_in_a_tar, "webdataset"),
    (folders_in_folders, "zarr"),
    (two_seeds_in_a_shard, "zarr"),
    (numbers_that_are_huge, "zarr"),
    (seeds_without_end, "zarr"),
    (toml_without_end, "zarr"),
    (other_data, "zarr"),
    (evaluation_by_a_file, "webdataset"),
    (pixels_without_end, "webdataset"),
    (chunk_that_is_a_bomb, "zarr"),
]


LEFT_OUT: dict[Callable[[Path], None], set[str]] = {
    # both make the order of rows, which takes time and memory for as many as there are said to be
    rows_by_the_hundred_million: {"push", "show", "export, samples"},
    # what is sent is read: these have something to read
    object_of_a_gigabyte: set(),
    documents_of_a_gigabyte: set(),
}
"""Commands that are not run; by default `push`, whose client takes a while to import."""


def remove_deep(path: Path) -> None:
    """Remove folders in folders: each that is found inside is put beside the first, which is empty
    then."""
    while path.exists():
        (inside,) = [*path.iterdir(), None][:1]
        if inside is not None:
            inside.rename(path.with_name("next"))
        path.rmdir()
        if inside is not None:
            path.with_name("next").rename(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for a cache; folders that lie too deep for others to remove are removed
    afterwards."""
    yield tmp_path
    if (tmp_path / "cache" / "d").exists():
        remove_deep(tmp_path / "cache" / "d")


@pytest.mark.parametrize(("make", "store"), MAKERS, ids=[make.__name__ for make, _ in MAKERS])
def test_every_command_ends_in_one_line_or_well(
    make: Callable[[Path], None], store: str, folder: Path
) -> None:
    make(folder / "cache")
    left_out = LEFT_OUT.get(make, {"push"})
    with hub_server() as server:
        environment = {"HF_ENDPOINT": server.url, "KDCACHE_HOME": str(folder / "home")}
        program = Program(
            commands.run, folder / "cache", store, left_out, folder=folder, environment=environment
        )
        code, out, err = program.end(timeout=300)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    for name, told in found.items():
        print(
            f"{name}: {told['megabytes']} MB, {told['seconds']} s, {told['code']}:"
            f" {(told['err'] or told['out'])[:200]}"
        )
    limits = {"most_megabytes": MOST_MEGABYTES, "most_seconds": MOST_SECONDS}
    faults = {
        name: (what, told)
        for name, told in found.items()
        if (what := commands.wrong(name, told, **limits))
    }
    assert not faults, faults
