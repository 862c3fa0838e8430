import base64
import dataclasses
import random
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import manifest
from PIL import Image, ImageOps
from runs import CONV, dump
from torchvision.transforms import v2

from kdcache.cache import Cache, Commit, library_versions, open_cache
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import Probe
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.errors import KdcacheWarning, ViewMismatchError
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.generators import seed_generators
from kdcache.sources import open_source
from kdcache.tools.recode import recode_cache
from kdcache.verify.views import (
    PROBES_PER_SEED,
    PROBES_PER_UNIT,
    check_views,
    make_probe,
    num_probes,
    num_traced,
    probed_commits,
    version_changes,
)
from kdcache.views import Recipe, ViewDataset, partners

COUNT = 30
MIXED = """
mode = "L"
size = 8
[[transforms]]
name = "RandomCrop"
size = "input"
padding = 1
[[transforms]]
name = "ToImage"
[[transforms]]
name = "RandomErasing"
p = 1.0
[mixing]
mixup = 1.0
block = 4
"""
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


@pytest.fixture
def mixed(tmp_path: Path) -> Cache:
    (tmp_path / "mixed.toml").write_text(MIXED)
    data = write(tmp_path / "images")
    dump(
        tmp_path / "cache",
        data=data,
        teacher=f"{CONV},classes=3",
        recipe=str(tmp_path / "mixed.toml"),
        unit_rows=8,
    )
    return open_cache(tmp_path / "cache")


def dataset_of(cache: Cache) -> ViewDataset:
    source = open_source(cache.manifest.source.spec)
    return ViewDataset(source, cache.recipe, cache.order, sizes=[cache.recipe.size])


def commits_of(cache: Cache) -> list[Commit]:
    return [*cache.commits(0), *cache.commits(1)]


def key_of(cache: Cache, row: int) -> str:
    return open_source(cache.manifest.source.spec).key(int(cache.order[row]))


def rewrite(cache: Cache, change: Callable[[Probe], Probe]) -> None:
    """Put other probes into every commit."""
    for commit in commits_of(cache):
        changed = dataclasses.replace(commit, probes=[change(probe) for probe in commit.probes])
        (cache.storage.path / commit_key(commit.seed, commit.unit)).write_bytes(changed.to_bytes())


def without_steps(probe: Probe) -> Probe:
    return dataclasses.replace(probe, steps=None)


def in_another_release(
    patch: pytest.MonkeyPatch, change: Callable[[Image.Image], Image.Image]
) -> None:
    """Let torchvision's RandomCrop give other pixels."""
    crop = v2.RandomCrop.transform
    patch.setattr(
        v2.RandomCrop, "transform", lambda self, image, params: change(crop(self, image, params))
    )


def check(cache: Cache, views: int = 10_000, seeds: tuple[int, ...] = (0, 1)) -> dict[str, int]:
    source = open_source(cache.manifest.source.spec)
    return check_views(cache, source, probed_commits(cache, seeds, views), views=views)


def test_a_cache_without_probes_is_told(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    for commit in commits_of(cache):
        bare = dataclasses.replace(commit, probes=[])
        (cache.storage.path / commit_key(commit.seed, commit.unit)).write_bytes(bare.to_bytes())
    assert (
        check(cache)["checked"] == 0 and "keeps no probe of these seeds" in capsys.readouterr().err
    )


def test_the_same_views_pass(cache: Cache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(cache) == {"checked": 2 * COUNT, "other_pixels": 0}
        assert check(cache, seeds=(1,))["checked"] == COUNT
        assert [check(cache, views)["checked"] for views in (0, 1, 5)] == [0, 1, 5]


def test_probes_are_those_of_the_commit(cache: Cache) -> None:
    dataset = dataset_of(cache)
    for commit in commits_of(cache):
        assert [probe.row for probe in commit.probes] == list(range(commit.start, commit.stop))
        for place, probe in enumerate(commit.probes):
            view = dataset.batch([(probe.row, commit.seed)]).views[0][0]
            steps = dataset.trace(probe.row, commit.seed) if place < PROBES_PER_UNIT else None
            assert probe == make_probe(probe.row, view, steps)
            assert probe.crc32 == zlib.crc32(view.numpy().tobytes())
            assert base64.b64decode(probe.thumbnail) == view.numpy().tobytes(), (
                "8x8 means of 8x8 pixels"
            )


@pytest.mark.parametrize(
    ("rows", "unit_rows", "group", "count"),
    [
        (1000, 1000, 1, 32),  # one unit has all
        (1000, 256, 1, 8),
        (1000, 100, 1, 4),
        (1000, 8, 1, 2),  # less than it has anyhow
        (33, 32, 1, 32),  # the last unit has one row
        (20, 8, 1, 8),  # all rows
        (1000, 1000, 8, 32),
        (1000, 256, 8, 8),
        (1000, 8, 8, 0),  # its share of those with steps is enough
        (1000, 1000, 300, 6),  # what a commit has room for
        (1000, 1000, 4000, 2),
    ],
)
def test_a_seed_has_enough_probes_however_few_its_units_are(
    rows: int,
    unit_rows: int,
    group: int,
    count: int,
) -> None:
    made = manifest(rows=rows, unit_rows=unit_rows, chunk_rows=1, seeds_per_unit=group)
    assert num_probes(made) == count
    sizes = [len(made.unit_range(unit)) for unit in range(made.num_units)]
    kept = 0
    for unit, size in enumerate(sizes):
        kept += min(max(num_traced(made, 3, unit), count), size)
    assert kept >= min(PROBES_PER_SEED, rows) or group > 64


def test_a_view_without_steps_is_told_by_those_of_its_unit(
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_another_release(monkeypatch, ImageOps.invert)
    for commit in commits_of(cache):
        last_first = dataclasses.replace(commit, probes=commit.probes[::-1])
        path = cache.storage.path / commit_key(commit.seed, commit.unit)
        path.write_bytes(last_first.to_bytes())
    with pytest.raises(
        ViewMismatchError, match=r"pixels first differ after transform 2, RandomCrop; "
    ):
        check(cache, views=1)


@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_an_overwritten_image_is_seen_where_a_unit_is_small(tmp_path: Path, store: str) -> None:
    data = write(tmp_path / "images")
    dump(tmp_path / "cache", data=data, teacher=f"{CONV},classes=3", seeds="0:8", store=store)
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.num_units == 1
    for seed in (0, 7):
        assert len(cache.commit_of(seed, 0).probes) == COUNT
    path = sorted((tmp_path / "images").rglob("*.png"))[17]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with pytest.raises(
        ViewMismatchError, match=rf"view class\d/{path.name} under seed 7.* have changed"
    ):
        check(cache, seeds=(7,))


@pytest.mark.parametrize("levels", [3, 50])
def test_a_thumbnail_that_moved_stops(cache: Cache, tmp_path: Path, levels: int) -> None:
    write(tmp_path / "images", lambda pixels: pixels + np.uint8(levels))
    with pytest.raises(
        ViewMismatchError,
        match=rf"view class\d/\d\d\.png under seed \d.*differs by {levels} of 255 .*have changed",
    ):
        check(cache)


def test_steps_are_the_pixels_after_decoding_conversion_and_each_transform(
    cache: Cache, tmp_path: Path
) -> None:
    probe = cache.commit_of(1, 2).probes[3]
    image = Image.open(tmp_path / "images" / key_of(cache, probe.row)).convert(
        "RGB"
    )  # as ImageFolder decodes
    names, sums = zip(*probe.steps, strict=True)
    assert names == ("decode", "convert", "RandomAffine", "RandomCrop", "Resize")
    assert sums[0] == zlib.crc32(b"RGB 8x8 " + image.tobytes())
    assert sums[1] == zlib.crc32(b"L 8x8 " + image.convert("L").tobytes())
    assert sums[4] == zlib.crc32(b"L 8x8 " + base64.b64decode(probe.thumbnail)), (
        "8x8 means of 8x8 pixels"
    )


def test_a_step_that_gives_a_tensor_is_summed_over_its_bytes(mixed: Cache) -> None:
    dataset = dataset_of(mixed)
    recipe = Recipe(
        "unmixed",
        {name: value for name, value in mixed.manifest.recipe.table.items() if name != "mixing"},
    )
    alone = ViewDataset(dataset.source, recipe, mixed.order, sizes=[8])
    name, crc32 = alone.trace(5, 1)[-1]
    assert name == "RandomErasing"
    assert crc32 == zlib.crc32(alone.batch([(5, 1)]).views[0][0].numpy().tobytes())


def test_steps_are_those_of_the_views_that_loader_workers_render(
    cache: Cache, tmp_path: Path
) -> None:
    made = {
        "data": cache.manifest.source.spec,
        "teacher": f"{CONV},classes=3",
        "recipe": "digits",
        "seeds": "0:2",
    }
    workers = ComputeConfig(workers=1, device="cpu")
    run_dump(DumpConfig(cache=str(tmp_path / "other"), compute=workers, unit_rows=8, **made))
    probes = [
        [commit.probes for commit in commits_of(one)]
        for one in (cache, open_cache(tmp_path / "other"))
    ]
    assert probes[0] == probes[1]


def test_a_trace_draws_nothing_from_the_callers_generators(cache: Cache) -> None:
    drawn = []
    for traces in (0, 2):
        seed_generators(1, 2, 3)
        found = [dataset_of(cache).trace(7, 1) for _ in range(traces)]
        drawn.append((torch.rand(3).tolist(), np.random.rand(), random.random()))
    assert drawn[0][:2] == drawn[1][:2]  # `random` is what beartype itself draws from
    assert found[0] == found[1] != dataset_of(cache).trace(7, 0)


def test_recoding_keeps_the_steps(cache: Cache, tmp_path: Path) -> None:
    recode_cache(cache.storage.path, tmp_path / "new", codec="topk:k=2")
    new = open_cache(tmp_path / "new")
    held = [probe for commit in commits_of(cache) for probe in commit.probes]
    assert [probe for commit in commits_of(new) for probe in commit.probes] == held
    write(tmp_path / "images", lambda pixels: 255 - pixels)
    with pytest.raises(ViewMismatchError, match="pixels first differ after decoding the image; "):
        check(new)


def test_another_decoder_is_named(cache: Cache, tmp_path: Path) -> None:
    write(tmp_path / "images", lambda pixels: 255 - pixels)
    with pytest.raises(
        ViewMismatchError,
        match=r"allowed: 2\); pixels first differ after decoding the image; .*images themselves",
    ):
        check(cache)


def test_another_conversion_is_named(cache: Cache) -> None:
    def change(probe: Probe) -> Probe:
        if probe.steps is None:
            return dataclasses.replace(probe, crc32=0)
        first, _, *rest = probe.steps
        return dataclasses.replace(probe, crc32=0, steps=[first, ("convert", 0), *rest])

    rewrite(cache, change)
    with pytest.warns(
        KdcacheWarning,
        match="pixels first differ after converting it to mode L; library versions are the same",
    ):
        check(cache)


def test_a_changed_transform_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    in_another_release(monkeypatch, ImageOps.invert)
    with pytest.raises(
        ViewMismatchError,
        match=r"pixels first differ after transform 2, RandomCrop; .*processor or the build",
    ):
        check(cache)


def test_a_transform_that_rounds_otherwise_is_named_in_the_warning(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_another_release(monkeypatch, lambda image: image.point(lambda level: min(level + 1, 255)))
    with pytest.warns(
        KdcacheWarning,
        match="60 of 60 .* same thumbnail .*: pixels first differ after transform 2, RandomCrop;",
    ):
        assert check(cache) == {"checked": 60, "other_pixels": 60}


def test_both_of_a_pair_that_is_mixed_are_probed(mixed: Cache) -> None:
    dataset = dataset_of(mixed)
    recipe = dataset.recipes[0]
    assert recipe.mixing is not None
    for commit in commits_of(mixed):
        partner_of = partners(COUNT, recipe.mixing, recipe.key, commit.seed)
        rows = {probe.row for probe in commit.probes}
        assert {int(partner_of[row]) for row in rows} == rows
        for probe in commit.probes[:PROBES_PER_UNIT]:
            assert [name for name, _ in probe.steps] == [
                "decode",
                "convert",
                "RandomCrop",
                "ToImage",
                "RandomErasing",
            ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(mixed)["other_pixels"] == 0


def test_of_a_mixed_view_its_own_steps_come_first(
    mixed: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_another_release(monkeypatch, ImageOps.invert)
    with pytest.raises(
        ViewMismatchError, match="pixels first differ after transform 1, RandomCrop; "
    ):
        check(mixed)


def test_of_a_mixed_view_then_come_its_partners(mixed: Cache, tmp_path: Path) -> None:
    one, other = mixed.commit_of(0, 1).probes[:2]
    path = tmp_path / "images" / key_of(mixed, other.row)
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    found = (
        rf"\(row {one.row}\).* pixels first differ after decoding the image of its partner, row"
        rf" {other.row}; "
    )
    with pytest.raises(ViewMismatchError, match=found):
        check(mixed, seeds=(0,))


@pytest.mark.parametrize(
    ("kept", "told"),
    [(4, r"mixing it with row \d+; "), (1, r"mixing it with row \d+, or a step of that row; ")],
)
def test_of_a_mixed_view_the_mixing_comes_last(mixed: Cache, kept: int, told: str) -> None:
    for commit in commits_of(mixed):
        probes = [dataclasses.replace(probe, crc32=0) for probe in commit.probes[:kept]]
        changed = dataclasses.replace(commit, probes=probes)
        (mixed.storage.path / commit_key(commit.seed, commit.unit)).write_bytes(changed.to_bytes())
    with pytest.warns(KdcacheWarning, match=f"pixels first differ after {told}"):
        check(mixed)


def test_a_cache_from_before_there_were_steps_is_checked_as_it_was(
    cache: Cache, tmp_path: Path
) -> None:
    rewrite(cache, without_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(cache)["checked"] == 60
    write(tmp_path / "images", lambda pixels: pixels + np.uint8(2))
    with pytest.warns(
        KdcacheWarning, match="as at the dump: most likely another image decoder, which is harmless"
    ):
        assert check(cache) == {"checked": 60, "other_pixels": 60}
    write(tmp_path / "images", lambda pixels: 255 - pixels)
    with pytest.raises(
        ViewMismatchError,
        match=r"allowed: 2\); library versions are the same, so the images themselves have changed",
    ):
        check(cache)


def test_other_pixels_under_the_same_thumbnail_warn(cache: Cache, tmp_path: Path) -> None:
    write(tmp_path / "images", lambda pixels: pixels + np.uint8(2))
    with pytest.warns(
        KdcacheWarning, match="60 of 60 re-rendered views have other pixels but the same thumbnail"
    ):
        assert check(cache) == {"checked": 60, "other_pixels": 60}


def test_swapped_images_stop(cache: Cache, tmp_path: Path) -> None:
    write(tmp_path / "images", lambda pixels: pixels[::-1])
    with pytest.raises(ViewMismatchError, match="is not what the teacher saw"):
        check(cache, views=1)


def test_an_image_that_is_not_readable_now_stops(cache: Cache, tmp_path: Path) -> None:
    row = cache.commit_of(0, 2).probes[1].row
    key = open_source(cache.manifest.source.spec).key(int(cache.order[row]))
    (tmp_path / "images" / key).write_bytes(b"not an image")
    with pytest.raises(
        ViewMismatchError,
        match=rf"view {key} under seed 0 \(row {row}\) was read at the dump and is not",
    ):
        check(cache, seeds=(0,))


def test_other_library_versions_are_named(cache: Cache, tmp_path: Path) -> None:
    for unit in range(4):
        commit = cache.commit_of(0, unit)
        changed = dataclasses.replace(commit, versions={**commit.versions, "pillow": "1.0"})
        (tmp_path / "cache" / commit_key(0, unit)).write_bytes(changed.to_bytes())
    write(tmp_path / "images", lambda pixels: 255 - pixels)
    with pytest.raises(
        ViewMismatchError,
        match=r"versions differ: pillow 1\.0 then, \S+ now: install those of the dump",
    ):
        check(cache, seeds=(0,))


def test_versions_that_a_commit_does_not_tell_are_not_compared(cache: Cache) -> None:
    commit = cache.commit_of(0, 0)
    assert (
        commit.versions == library_versions()
        and "libjpeg" in commit.versions
        and version_changes(commit) == []
    )
    older = {
        name: version
        for name, version in commit.versions.items()
        if name not in ("libjpeg", "numpy")
    }
    assert version_changes(dataclasses.replace(commit, versions=older)) == []
    other = dataclasses.replace(commit, versions={**older, "libjpeg": "turbo 1.5", "gone": "2"})
    assert version_changes(other) == [
        f"libjpeg turbo 1.5 then, {library_versions()['libjpeg']} now"
    ]
