import base64
import dataclasses
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import CONV, dump

from kdcache.cache import Cache, open_cache
from kdcache.cache.commit import commit_key
from kdcache.drift import PROBES_PER_UNIT, check_views, make_probe
from kdcache.errors import DriftError, KdcacheWarning
from kdcache.sources import open_source
from kdcache.views import Recipe, ViewDataset

COUNT = 30
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def write(folder: Path, change: Callable[[Pixels], Any] = lambda pixels: pixels) -> str:
    for index in range(COUNT):
        path = folder / f"class{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(50, 200, (8, 8), dtype=np.uint8)
        Image.fromarray(change(pixels).astype(np.uint8)).save(path)
    return f"imagefolder:{folder}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    data = write(tmp_path / "images")
    dump(tmp_path / "cache", data=data, teacher=f"{CONV},classes=3", unit_rows=8)
    return open_cache(tmp_path / "cache")


def check(cache: Cache, views: int = 10_000, seeds: tuple[int, ...] = (0, 1)) -> dict[str, int]:
    return check_views(cache, open_source(cache.manifest.source["spec"]), seeds, views=views)


def test_the_same_views_pass(cache: Cache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(cache) == {"checked": 2 * 4 * PROBES_PER_UNIT, "other_pixels": 0}
        assert check(cache, seeds=(1,))["checked"] == 4 * PROBES_PER_UNIT
        assert [check(cache, views)["checked"] for views in (0, 1, 5)] == [0, 1, 5]


def test_probes_are_those_of_the_commit(cache: Cache) -> None:
    source = open_source(cache.manifest.source["spec"])
    recipe = Recipe.from_dict(cache.manifest.recipe)
    dataset = ViewDataset(source, recipe, cache.order, sizes=[recipe.size])
    for commit in (*cache.commits(0), *cache.commits(1)):
        assert [probe["row"] for probe in commit.probes] == list(range(commit.start, commit.start + PROBES_PER_UNIT))
        for probe in commit.probes:
            view = dataset.batch([(probe["row"], commit.seed)]).views[0][0]
            assert probe == make_probe(probe["row"], view)
            assert probe["crc32"] == zlib.crc32(view.numpy().tobytes())
            assert base64.b64decode(probe["thumbnail"]) == view.numpy().tobytes(), "8x8 means of 8x8 pixels"


@pytest.mark.parametrize("levels", [3, 50])
def test_a_thumbnail_that_moved_stops(cache: Cache, tmp_path: Path, levels: int) -> None:
    write(tmp_path / "images", lambda pixels: pixels + np.uint8(levels))
    with pytest.raises(DriftError, match=rf"view class\d/\d\d\.png under seed \d.*differs by {levels} of 255 .*have changed"):
        check(cache)


def test_other_pixels_under_the_same_thumbnail_warn(cache: Cache, tmp_path: Path) -> None:
    write(tmp_path / "images", lambda pixels: pixels + np.uint8(2))
    with pytest.warns(KdcacheWarning, match="32 of 32 re-rendered views have other pixels but the same thumbnail"):
        assert check(cache) == {"checked": 32, "other_pixels": 32}


def test_swapped_images_stop(cache: Cache, tmp_path: Path) -> None:
    write(tmp_path / "images", lambda pixels: pixels[::-1])
    with pytest.raises(DriftError, match="is not what the teacher saw"):
        check(cache, views=1)


def test_an_image_that_is_not_readable_now_stops(cache: Cache, tmp_path: Path) -> None:
    row = cache.commit_of(0, 2).probes[1]["row"]
    key = open_source(cache.manifest.source["spec"]).key(int(cache.order[row]))
    (tmp_path / "images" / key).write_bytes(b"not an image")
    with pytest.raises(DriftError, match=rf"view {key} under seed 0 \(row {row}\) was read at the dump and is not"):
        check(cache, seeds=(0,))


def test_other_library_versions_are_named(cache: Cache, tmp_path: Path) -> None:
    for unit in range(4):
        commit = cache.commit_of(0, unit)
        changed = dataclasses.replace(commit, versions={**commit.versions, "pillow": "1.0"})
        (tmp_path / "cache" / commit_key(0, unit)).write_bytes(changed.to_bytes())
    write(tmp_path / "images", lambda pixels: 255 - pixels)
    with pytest.raises(DriftError, match=r"versions differ: pillow 1\.0 then, \S+ now: install those of the dump"):
        check(cache, seeds=(0,))
