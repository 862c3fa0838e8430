"""Every attack is refused with one line, by a reader that neither runs its code nor its machine out
of memory."""

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hostile.documents
import hostile.fits
import hostile.objects
import hostile.stored_views
import hostile.subsets
import hostile.tar_members  # noqa: F401 # all six fill ATTACKS
import numcodecs.pickles
import numpy as np
import pytest
from hostile.commands import measured, print_peaks
from hostile.forge import ATTACKS, BOMB_BYTES, change_manifest, change_object, lowrank, tars, zarr
from hostile.pictures import RECIPES, pictures
from nursery import Program

from kdcache.cache import open_cache
from kdcache.cache.arrays import arrays_digest, publish_arrays
from kdcache.cache.documents.manifest import SAMPLES, SOURCE
from kdcache.cache.stored_views import read_views
from kdcache.config.files import recorded_settings
from kdcache.errors import KdcacheError
from kdcache.verify.cache import verify_cache

MOST_GROWTH = 200 * 10**6
MOST_SECONDS = 2.0
"""Of the processor: others on this machine take time, too."""


@pytest.fixture(autouse=True)
def old_numcodecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let numcodecs unpickle, as its older versions do without being told."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    yield


def read_all(path: Path) -> str:
    """Read all that a training would of the cache, and return the error."""
    try:
        cache = open_cache(path)
        _ = cache.codec
        read_views(cache.storage, cache.manifest)
        for seed in cache.seeds():
            cache.commits(seed)
            cache.codec.decode(cache.read(seed, np.arange(cache.manifest.rows))).probs(1.0)
    except KdcacheError as error:
        return str(error)
    return ""


def verify_all(path: Path, views: int = 0) -> str:
    """Return the first fault that verify finds, or its error."""
    try:
        return "".join(verify_cache(open_cache(path), views=views)["faults"][:1])
    except KdcacheError as error:
        return str(error)


def test_honest_caches_are_taken(tmp_path: Path) -> None:
    for make in (zarr, lowrank, tars):
        make(tmp_path / make.__name__)
        assert read_all(tmp_path / make.__name__) == verify_all(tmp_path / make.__name__) == ""


def test_memory_is_measured(tmp_path: Path) -> None:
    code, out, err = Program(print_peaks, folder=tmp_path).end()
    before, taken, after = json.loads(out)
    assert code == 0, err
    if before:  # only Linux tells
        assert taken > 90 * 10**6 and after - before < 20 * 10**6


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    forge, message = ATTACKS[name]
    forge(tmp_path / "cache")
    for use in (read_all, verify_all):
        said, cost = measured(partial(use, tmp_path / "cache"))
        print(f"{name}, {use.__name__}: {cost}: {said}")
        assert re.search(message, said), said
        assert "\n" not in said and len(said) <= 500
        assert cost.memory < MOST_GROWTH and cost.seconds < MOST_SECONDS
    assert not list(tmp_path.rglob("owned")), "it ran code"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_asks_for_too_much(name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "cache", RECIPES[name])
    assert read_all(tmp_path / "cache") == "", (
        "its records can be read, and images are not looked at"
    )
    said, cost = measured(lambda: verify_all(tmp_path / "cache", views=1))
    print(f"{name}: {cost}: {said}")
    assert re.search(r"^(sample \d+ \(a/\d+\)|recipe theirs)", said) and len(said) <= 500, said
    assert cost.memory < MOST_GROWTH and cost.seconds < MOST_SECONDS


SPECS = {
    "device": "segfolder:{0},classes=/dev/zero",
    "pipe": "segfolder:{0},classes={0}/pipe",
    "pattern": "tars:/*/*/*/*/*/*.tar",
    "spaces": "digits:" + " " * 4000,
    "folder": "imagefolder:{0}",
    "code": "os:mkdir,path={0}/owned",
    "pickles": "torchvision:MNIST,root={0}",
    "download": "hf:evil/data",
}


@pytest.mark.parametrize("name", SPECS)
def test_what_a_cache_says_of_its_data_is_not_looked_at(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = {"spec": SPECS[name].format(tmp_path), "fingerprint": "0" * 64}
    zarr(tmp_path / "cache", source=source)
    said, cost = measured(lambda: verify_all(tmp_path / "cache", views=1))
    assert re.search("holds no images.* add --data ", said) and len(said) <= 500
    assert cost.seconds < MOST_SECONDS and not (tmp_path / "owned").exists()


def zeros(path: Path, root: str) -> None:
    """Put 256 MB of zeros in the place of arrays, which take a few kB compressed."""
    cache = zarr(path)
    dtype = np.dtype("u1" if root == SOURCE else "<u4")
    arrays = {NAMES[root]: np.zeros(BOMB_BYTES // dtype.itemsize, dtype)}
    digest = arrays_digest(arrays)
    publish_arrays(cache.storage, root, arrays)

    def change(document: dict[str, Any]) -> None:
        document["rows"] = 1 + BOMB_BYTES // 4
        document["unit_rows"] = document["chunk_rows"] = 1 << 12
        if root == SOURCE:
            document["source"]["list"] = digest
        else:
            document["samples"] = {"count": BOMB_BYTES // 4, "sha256": digest}

    change_manifest(path, change)


NAMES = {SOURCE: "names", SAMPLES: "numbers"}


@pytest.mark.parametrize("root", NAMES)
def test_few_bytes_do_not_make_many(root: str, tmp_path: Path) -> None:
    zeros(tmp_path / "cache", root)
    said, cost = measured(lambda: verify_all(tmp_path / "cache"))
    print(f"{root}: {cost}: {said}")
    assert re.search(r"the list of its \w+ \(.*\) is absent or damaged", said), said
    assert cost.memory < MOST_GROWTH and cost.seconds < MOST_SECONDS


@pytest.mark.parametrize("make", [zarr, tars])
def test_a_large_unit_that_is_whole_is_taken(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "cache")
    monkeypatch.setattr("kdcache.cache.stored_units._LARGE", 0)
    assert read_all(tmp_path / "cache") == verify_all(tmp_path / "cache") == ""
    cache = open_cache(tmp_path / "cache")
    path = tmp_path / "cache" / cache.commit_of(0, 0).key
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "unit 0 " in verify_all(tmp_path / "cache")
    path.write_bytes(whole[:-512])
    assert "bytes where" in verify_all(tmp_path / "cache")


def test_zeros_after_the_end_of_a_tar_are_refused(tmp_path: Path) -> None:
    cache = tars(tmp_path / "cache")
    data = cache.unit_bytes(cache.commit_of(0, 0))
    change_object(tmp_path / "cache", data + bytes(512))
    assert "it goes on after its end mark" in verify_all(tmp_path / "cache")


@pytest.mark.parametrize("line", ["batch_size = 007", "batch_size = 1_0", 'recipe = "\ud800"'])
def test_settings_that_are_no_toml_are_passed_over(tmp_path: Path, line: str) -> None:
    zarr(tmp_path / "cache", made_by={"config": f"[dump-teacher]\n{line}\nunit_rows = 8\n"})
    assert verify_all(tmp_path / "cache") == ""
    assert (
        recorded_settings(open_cache(tmp_path / "cache").manifest.made_by.config)["unit_rows"] == 8
    )
