"""The commands on caches of maps, of both stores, with a codec that is fitted and one that is
not."""

from pathlib import Path

import numpy as np
import pytest
from command_line import invoke, kdcache, kdcache_json
from hub_server import hub_server
from map_caches import DATA, STUDENT, TEACHER, made
from PIL import Image
from segmentation_files import write_pair

from kdcache.cache import Cache, open_cache
from kdcache.cache.source import CachedSource

WHOLE = list(range(48))
PLACE = "hf://datasets/lab/maps"
CACHES = {
    "shards": {"codec": "full:dtype=float16"},
    "shards-lowrank": {"codec": "lowrank:step=0.5"},
    "tars": {"codec": "full:dtype=float16", "store": "webdataset", "seeds_per_unit": 1},
    "tars-lowrank": {"codec": "lowrank:step=0.5", "store": "webdataset", "seeds_per_unit": 1},
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, changes in CACHES.items():
        made(folder / name, recipe, seeds="0:2", **changes)
    return folder


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest, shelf: Path) -> Path:
    return shelf / str(request.param)


def read(path: Path, seed: int = 0) -> bytes:
    return open_cache(path).read(seed, WHOLE).tobytes()


def storage(cache: Cache) -> dict[tuple[int, int], bytes]:
    return {unit: cache.storage.get(cache.format.key(*unit)) for unit in cache.units()}


def test_parts_are_exported_and_merged_again(cache: Path, tmp_path: Path) -> None:
    for number in range(2):
        assert (
            kdcache_json(
                "export", cache, tmp_path / str(number), "--seeds", f"{number}:{number + 1}"
            )["units_written"]
            == 3
        )
    kdcache("merge", tmp_path / "merged", tmp_path / "0", tmp_path / "1")
    whole, merged = open_cache(cache), open_cache(tmp_path / "merged")
    assert (
        merged.complete_seeds() == [0, 1]
        and storage(merged) == storage(whole)
        and merged.manifest == whole.manifest
    )
    kdcache("export", cache, tmp_path / "units", "--units", "1:3")
    kdcache("export", cache, tmp_path / "others", "--units", "0:1")
    kdcache("merge", tmp_path / "units", tmp_path / "others")
    assert storage(open_cache(tmp_path / "units")) == storage(whole)
    refused = invoke(
        "merge",
        tmp_path / "no",
        cache,
        cache.parent / ("tars" if cache.name == "shards" else "shards"),
    )
    assert (
        refused.exit_code == 1
        and "were made otherwise (" in refused.output
        and not (tmp_path / "no").exists()
    )


def test_parts_are_trained_on(cache: Path, tmp_path: Path) -> None:
    kdcache("export", cache, tmp_path / "part", "--units", "0:2")
    words = [
        "--student",
        STUDENT,
        "--batch-size",
        8,
        "--workers",
        0,
        "--device",
        "cpu",
        "--epochs",
        1,
        "--loss",
        "dist:tau=1",
    ]
    data = [] if cache.name.startswith("tars") else ["--data", DATA]
    found = kdcache_json(
        "train-student",
        tmp_path / "run",
        "--cache",
        tmp_path / "part",
        "--on-miss",
        "skip",
        *words,
        *data,
    )
    assert found["steps"] == 4 and np.isfinite(found["train_loss"])


def test_the_other_store_and_back(cache: Path, tmp_path: Path) -> None:
    there, back = (
        ("zarr", "webdataset") if cache.name.startswith("tars") else ("webdataset", "zarr")
    )
    data = {"webdataset": ["--data", DATA], "zarr": []}
    kdcache("convert", cache, tmp_path / "other", "--store", there, *data[there])
    kdcache("convert", tmp_path / "other", tmp_path / "back", "--store", back, *data[back])
    for seed in (0, 1):
        assert read(cache, seed) == read(tmp_path / "other", seed) == read(tmp_path / "back", seed)
    assert kdcache_json("verify", tmp_path / "back", "--views", 4, "--data", DATA)["faults"] == []
    tars = tmp_path / ("other" if there == "webdataset" else "back")
    assert CachedSource(open_cache(tars)).sample(3).image.size == (40, 24)
    kdcache(
        "convert",
        tmp_path / "back",
        tmp_path / "names",
        "--store",
        there,
        *data[there],
        *(["--no-images"] if data[there] else []),
    )
    assert read(cache) == read(tmp_path / "names")


def test_another_codec(cache: Path, tmp_path: Path) -> None:
    is_fitted = cache.name.endswith("lowrank")
    codec = "lowrank:step=1" if is_fitted else "full:dtype=uint8"
    assert (
        kdcache_json("recode", cache, tmp_path / "new", "--codec", codec)["after"]["codec"] == codec
    )
    new, old = open_cache(tmp_path / "new"), open_cache(cache)
    assert (new.manifest.store, new.manifest.has_images, new.manifest.task) == (
        "zarr",
        False,
        "segmentation",
    )
    found, wanted = (one.codec.decode(one.read(1, WHOLE)).probs(1.0) for one in (new, old))
    assert 0 < (found - wanted).abs().mean() < (0.07 if is_fitted else 0.01)
    finer = "full:dtype=uint8" if is_fitted else "lowrank:step=0.001"
    refused = invoke(
        "recode", cache if is_fitted else tmp_path / "new", tmp_path / "no", "--codec", finer
    )
    assert (
        refused.exit_code == 2
        and ("quantised on a basis" if is_fitted else "finer than") in refused.output
    )


def test_checks_find_nothing_and_find_damage(cache: Path, tmp_path: Path) -> None:
    found = kdcache_json(
        "verify",
        cache,
        "--views",
        8,
        "--data",
        DATA,
        "--teacher",
        TEACHER,
        "--device",
        "cpu",
        "--workers",
        0,
    )
    assert found["faults"] == [] and found["views"]["checked"] == 8
    # sums of a convolution may come in another order in another batch
    assert found["teacher"]["views"] == 8 and found["teacher"]["beyond"] == 0
    kdcache("export", cache, tmp_path / "copy")
    copy = open_cache(tmp_path / "copy")
    path = tmp_path / "copy" / copy.format.key(1, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = invoke("verify", tmp_path / "copy")
    assert done.exit_code != 0 and "seed 1, unit 1" in done.output
    told = invoke("verify", cache, "--views", 4).output
    if cache.name.startswith("tars"):
        assert "4 rendered again, all as at the dump" in told, "from the images that it holds"
    else:
        assert f"--data {DATA}" in told, "no data is opened because a cache says so"


def test_what_killed_writers_left(cache: Path, tmp_path: Path) -> None:
    kdcache("export", cache, tmp_path / "copy", "--seeds", "0:1")
    copy = open_cache(tmp_path / "copy")
    key = copy.format.key(1, 0)
    copy.storage.publish(key, b"orphaned")
    assert kdcache_json("verify", tmp_path / "copy")["orphaned"] == [key]
    assert key in kdcache("gc", tmp_path / "copy", "--older-than", "0s")
    kdcache("gc", tmp_path / "copy", "--older-than", "0s", "--delete")
    assert not copy.storage.exists(key) and read(tmp_path / "copy") == read(cache)


@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_a_plan_tells_the_bytes(store: str, shelf: Path, tmp_path: Path, recipe: str) -> None:
    name = "shards" if store == "zarr" else "tars"
    words = [
        "--data",
        DATA,
        "--teacher",
        TEACHER,
        "--recipe",
        recipe,
        "--seeds",
        "0:1",
        "--batch-size",
        16,
        "--device",
        "cpu",
    ]
    words += [
        "--codec",
        "full:dtype=float16",
        "--store",
        store,
        "--unit-rows",
        16,
        "--workers",
        0,
        "--plan",
    ]
    planned = kdcache_json("dump-teacher", tmp_path / "cache", *words)
    assert (planned["size"], planned["sites"], planned["stride"]) == ([16, 24], [2, 4, 6], 4)
    told = planned["bytes_per_view"]
    assert told == pytest.approx(kdcache_json("info", shelf / name)["bytes_per_view"], rel=0.1)


def test_what_a_cache_says_of_itself(cache: Path) -> None:
    lines = kdcache("info", cache)
    assert "segmentation, 4 classes, 4x6 maps of 2 heads at stride 4" in lines
    assert (
        "webdataset, with images, 1 seed to a tar" if cache.name.startswith("tars") else "zarr\n"
    ) in lines
    assert kdcache_json("info", cache)["manifest"]["sites"] == [2, 4, 6]
    assert " 6/6 units (100 %), complete" in kdcache("info", cache, "--follow")


def test_the_hub_and_back(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        kdcache("push", cache, PLACE)
        card = server.repos["lab/maps"][-1]["README.md"].decode()
        assert ("with the images" in card) == cache.name.startswith(
            "tars"
        ) and "segmentation" in card
        kdcache("pull", PLACE, tmp_path / "pulled")
    assert storage(open_cache(tmp_path / "pulled")) == storage(open_cache(cache))


def test_a_view_is_shown(cache: Path, tmp_path: Path) -> None:
    kdcache("show", cache, "--view", "3:1", "--data", DATA, "--out", tmp_path / "view.png")
    assert Image.open(tmp_path / "view.png").width > 400
    if cache.name.startswith("tars"):
        kdcache("show", cache, "--view", "3:1", "--out", tmp_path / "own.png")
        assert np.array_equal(
            *(np.asarray(Image.open(tmp_path / name)) for name in ("own.png", "view.png"))
        )


def test_images_that_have_changed_stop_a_training(tmp_path: Path, recipe: str) -> None:
    for index in range(8):
        write_pair(
            tmp_path / "d/images" / f"{index}.png",
            tmp_path / "d/masks" / f"{index}.png",
            np.full((18, 26), index % 3),
        )
    data = f"segfolder:{tmp_path}/d,classes=4,images=images/{{}}.png"
    settings = {"data": data, "unit_rows": None, "batch_size": 4, "codec": "full:dtype=float32"}
    made(tmp_path / "cache", recipe, **settings)
    words = [
        "--student",
        STUDENT,
        "--batch-size",
        4,
        "--workers",
        0,
        "--device",
        "cpu",
        "--data",
        data,
    ]
    kdcache("train-student", tmp_path / "run", "--cache", tmp_path / "cache", *words, "--epochs", 1)
    assert (
        kdcache_json("verify", tmp_path / "cache", "--views", 4, "--data", data)["views"]["checked"]
        == 4
    )
    for path in (tmp_path / "d/images").iterdir():
        Image.open(path).rotate(180).save(path)
    done = invoke("train-student", tmp_path / "more", "--cache", tmp_path / "cache", *words)
    assert done.exit_code != 0 and "pixels first differ after decoding the image" in done.output, (
        done.output
    )
    done = invoke("verify", tmp_path / "cache", "--views", 4, "--data", data)
    assert done.exit_code != 0 and "is not what the teacher saw" in done.output
