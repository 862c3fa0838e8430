"""Conversion between the stores: what comes out is what a dump into that store would have
written."""

import io
import os
import tarfile
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import CONV, IN_PROCESS, dump, train
from s3_server import BUCKET, environ, environment, s3_server
from torchvision.datasets import ImageFolder

from kdcache.cache import Cache, open_cache
from kdcache.cache.documents.parts import ConvertedFrom
from kdcache.dump.plan import plan_dump
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.errors import MismatchError, UsageError
from kdcache.tools.convert import convert_cache
from kdcache.verify.cache import verify_cache


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let specs name functions of this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


ROWS = 40
BROKEN = 7


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, one of them broken, and the same dump in both stores."""
    root = tmp_path_factory.mktemp("shelf")
    for index in range(ROWS):
        file = root / "images" / f"class{index % 3}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)).save(
            file
        )
        if index == BROKEN:
            file.write_bytes(b"not an image")
    settings: dict[str, Any] = {
        "data": f"imagefolder:{root}/images",
        "teacher": f"{CONV},classes=3",
        "skip_unreadable": True,
    }
    settings |= {"seeds": "0:2", "batch_size": 8, "unit_rows": 16}
    dump(root / "zarr", **settings)
    dump(root / "tars", store="webdataset", **settings)
    return root


def storage(cache: Cache) -> list[bytes]:
    return [cache.storage.get(cache.format.key(*unit)) for unit in cache.units()]


def facts(cache: Cache, seed: int) -> tuple[list[Any], list[Any]]:
    """Return absent rows and probes under a seed, whatever the units."""
    commits = cache.commits(seed)
    absent = [replace(absence, seed=None) for commit in commits for absence in commit.absent]
    probes = [replace(probe, seed=None) for commit in commits for probe in commit.probes]
    by_row = attrgetter("row")
    return sorted(absent, key=by_row), sorted(probes, key=by_row)


def require_same(one: Cache, two: Cache) -> None:
    assert one.complete_seeds() == two.complete_seeds() == [0, 1]
    there = np.setdiff1d(np.arange(ROWS), one.unavailable(one.commits(0))[0])
    for seed in (0, 1):
        assert one.read(seed, there).tobytes() == two.read(seed, there).tobytes()
        assert (
            facts(one, seed) == facts(two, seed)
            and len(facts(one, seed)[0]) == 1
            and facts(one, seed)[1]
        )


def members(cache: Cache) -> list[tuple[str, bytes]]:
    """Return names and bytes of all that the tars hold, in order."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(storage(cache))), ignore_zeros=True) as file:
        return [(member.name, part.read()) for member in file if (part := file.extractfile(member))]


def test_tars_hold_what_a_dump_would_write_and_come_back_as_they_were(
    shelf: Path, tmp_path: Path
) -> None:
    result = convert_cache(
        shelf / "zarr", tmp_path / "tars", store="webdataset", data=f"imagefolder:{shelf}/images"
    )
    assert result["seeds"] == [0, 1] and result["store"] == "webdataset"
    old, made, direct = (
        open_cache(path) for path in (shelf / "zarr", tmp_path / "tars", shelf / "tars")
    )
    require_same(old, made)
    assert (
        made.manifest.seeds_per_unit == 2
        and made.manifest.has_images
        and verify_cache(made)["faults"] == []
    )
    origin = ConvertedFrom(store="zarr", manifest=old.manifest.digest)
    assert made.manifest.made_by.converted_from == origin
    differences = direct.manifest.differences(made.manifest)
    assert [line.partition(":")[0] for line in differences] == [
        "unit_rows",
        "chunk_rows",
    ], "which is the default there"
    assert members(made) == members(direct), "names, labels, images and records"
    assert (
        convert_cache(
            shelf / "zarr",
            tmp_path / "tars",
            store="webdataset",
            data=f"imagefolder:{shelf}/images",
        )["units_written"]
        == 0
    )
    convert_cache(tmp_path / "tars", tmp_path / "again", store="zarr")
    require_same(old, open_cache(tmp_path / "again"))
    again = open_cache(tmp_path / "again")
    assert again.manifest.source == old.manifest.source == made.manifest.source
    assert verify_cache(again, views=8, data=f"imagefolder:{shelf}/images")["faults"] == []
    correct = [
        sum(c.statistics["accuracy"] * (c.stop - c.start) for c in cache.commits(0))
        for cache in (old, again)
    ]
    assert correct[0] == pytest.approx(correct[1], rel=0.1)


def test_zarr_shards_from_tars_are_those_of_a_dump(shelf: Path, tmp_path: Path) -> None:
    convert_cache(shelf / "tars", tmp_path / "zarr", store="zarr")
    made, direct = open_cache(tmp_path / "zarr"), open_cache(shelf / "zarr")
    require_same(open_cache(shelf / "tars"), made)
    assert verify_cache(made)["faults"] == []
    dump(
        tmp_path / "direct",
        data=f"imagefolder:{shelf}/images",
        teacher=f"{CONV},classes=3",
        skip_unreadable=True,
        batch_size=8,
    )
    fresh = open_cache(tmp_path / "direct")
    assert fresh.manifest.differences(made.manifest) == [], "so that a dump can go on in it"
    assert storage(fresh) == storage(made) and direct.manifest.unit_rows != made.manifest.unit_rows
    assert fresh.commits(0)[0].statistics.keys() == made.commits(0)[0].statistics.keys()


def test_without_images_and_a_training_from_it(shelf: Path, tmp_path: Path) -> None:
    data = f"imagefolder:{shelf}/images"
    convert_cache(shelf / "zarr", tmp_path / "names", store="webdataset", data=data, images=False)
    assert not open_cache(tmp_path / "names").manifest.has_images
    convert_cache(
        shelf / "zarr", tmp_path / "tars", store="webdataset", data=f"imagefolder:{shelf}/images"
    )
    settings = {
        "loss": "kl:tau=2",
        "epochs": 1,
        "batch_size": 8,
        "student": "tiny_models:mlp,mean=0.5,std=0.25,classes=3",
    }
    assert (
        train(tmp_path / "one", cache=str(tmp_path / "names"), data=data, **settings)["steps"] == 4
    )
    assert (
        train(tmp_path / "two", cache=str(tmp_path / "tars"), data=None, **settings)["steps"] == 4
    )


def test_what_is_refused(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a zarr store already; kdcache export copies it"):
        convert_cache(shelf / "zarr", tmp_path / "new", store="zarr")
    with pytest.raises(UsageError, match="zarr stores hold no images"):
        convert_cache(shelf / "tars", tmp_path / "new", store="zarr", images=False)
    with pytest.raises(MismatchError, match="digits:test is not what cache"):
        convert_cache(shelf / "zarr", tmp_path / "new", store="webdataset", data="digits:test")
    with pytest.raises(UsageError, match=r"holds no images.*add --data"):
        convert_cache(shelf / "zarr", tmp_path / "new", store="webdataset")
    with pytest.raises(MismatchError, match="unit_rows"):
        convert_cache(
            shelf / "zarr", shelf / "tars", store="webdataset", data=f"imagefolder:{shelf}/images"
        )
    assert not (tmp_path / "new").exists()


def twice() -> Any:
    """Return a data set that lists each of the pictures twice."""
    folder = Path(os.environ["PICTURES_TWICE"])
    pictures = ImageFolder(folder)
    pictures.samples *= 2
    return pictures


def test_equal_keys_are_refused_before_any_work(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICTURES_TWICE", f"{shelf}/images")
    settings: dict[str, Any] = {"data": "test_convert:twice", "teacher": f"{CONV},classes=3"}
    settings |= {"skip_unreadable": True, "seeds": "0:1", "recipe": "digits", "unit_rows": 16}
    refusal = (
        r"^samples 0 and 40 of source test_convert:twice have the same key, 'class0/00\.png'; "
        "tars name files by keys: give each sample its own key, or take a zarr store$"
    )
    config = DumpConfig(
        cache=str(tmp_path / "tars"), compute=IN_PROCESS, store="webdataset", **settings
    )
    with pytest.raises(UsageError, match=refusal):
        plan_dump(config)
    with pytest.raises(UsageError, match=refusal):
        run_dump(config)
    dump(tmp_path / "zarr", **settings)
    with pytest.raises(UsageError, match=refusal):
        convert_cache(
            tmp_path / "zarr", tmp_path / "tars", store="webdataset", data=settings["data"]
        )
    assert not (tmp_path / "tars").exists()
    assert verify_cache(open_cache(tmp_path / "zarr"))["faults"] == [], (
        "such a store goes by numbers"
    )


def test_into_a_bucket(shelf: Path) -> None:
    with s3_server() as port, environ(**environment(port)):
        convert_cache(shelf / "tars", f"s3://{BUCKET}/zarr", store="zarr")
        require_same(open_cache(f"s3://{BUCKET}/zarr"), open_cache(shelf / "tars"))
