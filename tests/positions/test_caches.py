"""Caches of every layout, in both formats: what was committed is read back, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import flipped, manifest
from hostile.forge import change_manifest
from layouts import (
    CLASSES,
    LAYOUTS,
    SPECS,
    BoxedLabel,
    codec_of,
    encoded,
    manifest_fields,
    random_logits,
)

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.positions import layout_fields
from kdcache.cache.formats.protocol import StoredSample
from kdcache.codecs import check_records, codec_to_dict
from kdcache.errors import CacheError, DamagedUnitError, UsageError
from kdcache.positions import Heads, Layout, One, Proposals, Pyramid
from kdcache.shapes import Records
from kdcache.tools.convert import convert_cache
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache
from kdcache.views import load_recipe

pytestmark = pytest.mark.usefixtures("boxed_task")
every_layout = pytest.mark.parametrize("name", LAYOUTS)
every_store = pytest.mark.parametrize("store", ["zarr", "webdataset"])
STORES: dict[str, dict[str, Any]] = {
    "zarr": {},
    "webdataset": {
        "store": "webdataset",
        "seeds_per_unit": 2,
        "has_images": False,
        "chunk_rows": 8,
        "source": {"spec": "noise", "fingerprint": "0" * 64, "classes": CLASSES},
    },
}


def manifest_of(layout: Layout, spec: str = SPECS[0], store: str = "zarr") -> Any:
    codec = codec_of(spec, layout)
    fields = {**manifest_fields(layout), "chunk_bytes": None, **STORES[store]}
    return manifest(codec, recipe=load_recipe("eval").to_dict(), **fields)


def unit_records(cache: Cache, layout: Layout, seed: int, unit: int) -> Records:
    rows = len(cache.manifest.unit_range(unit))
    logits = random_logits(rows, layout.num_positions, CLASSES, seed=100 * seed + unit)
    return encoded(cache.codec, layout, logits, seed=unit)


def filled(path: Path, layout: Layout, spec: str = SPECS[0], store: str = "zarr") -> Cache:
    """Return a cache of two seeds, opened anew."""
    codec = codec_of(spec, layout)
    made = manifest_of(layout, spec, store)
    cache = create_cache(path, made, codec.fit_arrays())
    for unit in range(made.num_units):
        records = [unit_records(cache, layout, seed, unit) for seed in (0, 1)]
        if store == "webdataset":
            samples = [StoredSample(f"a/{row}") for row in made.unit_range(unit)]
            commit_unit(cache, 0, unit, np.stack(records), samples)
            continue
        for seed in (0, 1):
            start_seed(cache, seed)
            commit_unit(cache, seed, unit, records[seed])
    return open_cache(path)


@every_store
@pytest.mark.parametrize("spec", [SPECS[0], SPECS[3]])
@every_layout
def test_what_was_committed_is_read_back(name: str, spec: str, store: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    cache = filled(tmp_path / "cache", layout, spec, store)
    assert cache.manifest.layout == layout and cache.codec.record_dtype == cache.manifest.dtype
    assert verify_cache(cache)["faults"] == []
    for seed in (0, 1):
        parts = [unit_records(cache, layout, seed, unit) for unit in range(3)]
        expected = np.concatenate(parts)
        assert cache.read(seed, range(20)).tobytes() == expected.tobytes()
        found = cache.codec.decode(cache.read(seed, [7, 19]))
        whole = cache.codec.decode(expected)
        torch.testing.assert_close(found.logits(), whole.logits()[[7, 19]])


@every_store
@every_layout
def test_a_flipped_byte_is_refused(name: str, store: str, tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", LAYOUTS[name], store=store)
    commit = cache.commit_of(1, 1)
    file = tmp_path / "cache" / commit.key
    data = file.read_bytes()
    for position in (len(data) // 3, len(data) // 2, len(data) - 1):
        file.write_bytes(flipped(data, position, 0x80))
        with pytest.raises(DamagedUnitError):
            open_cache(tmp_path / "cache").read(1, range(8, 16))
    assert verify_cache(open_cache(tmp_path / "cache"))["faults"] != []


@pytest.mark.parametrize("name", ["heads of unlike sizes", "pyramid", "proposals"])
def test_a_cache_is_converted_merged_and_recoded(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    cache = filled(tmp_path / "cache", layout, store="webdataset")
    convert_cache(tmp_path / "cache", tmp_path / "shards", store="zarr")
    merge_caches(tmp_path / "merged", [tmp_path / "cache"])
    for path in (tmp_path / "shards", tmp_path / "merged"):
        made = open_cache(path)
        assert made.manifest.layout == layout
        assert made.read(1, range(20)).tobytes() == cache.read(1, range(20)).tobytes()
    recode_cache(tmp_path / "cache", tmp_path / "recoded", codec="full:dtype=float16")
    made = open_cache(tmp_path / "recoded")
    before = cache.codec.decode(cache.read(1, range(20))).logits()
    after = made.codec.decode(made.read(1, range(20))).logits()
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-2)
    assert made.manifest.layout == cache.manifest.layout
    assert verify_cache(made)["faults"] == []


def test_of_maps_of_one_size_a_manifest_says_sites_as_it_always_did(tmp_path: Path) -> None:
    made = manifest_of(LAYOUTS["heads of one size"])
    assert made.to_json()["sites"] == [2, 2, 3] and "positions" not in made.to_json()
    assert not {"sites", "positions"} & set(manifest_of(One()).to_json())
    other = manifest_of(LAYOUTS["heads of unlike sizes"])
    assert other.to_json()["positions"] == {"kind": "heads", "sizes": [[4, 3], [2, 2]]}
    assert "sites" not in other.to_json()
    assert made.dtype["maps"].shape == (2, 24, 2, 3)


def test_another_layout_is_another_cache(tmp_path: Path) -> None:
    filled(tmp_path / "cache", Pyramid(((2, 3), (1, 1)), (1, 1)))
    other = manifest_of(Pyramid(((3, 2), (1, 1)), (1, 1)))
    with pytest.raises(CacheError, match="positions"):
        create_cache(tmp_path / "cache", other)


CONTRADICTIONS: dict[str, tuple[Layout, dict[str, Any], str]] = {
    "sites beside positions": (
        Heads(((4, 3), (2, 2))),
        {"sites": [2, 2, 3]},
        r"sites is \[2, 2, 3\], and positions says what the logits are",
    ),
    "maps of one size": (
        Heads(((4, 3), (2, 2))),
        {"positions": {"kind": "heads", "sizes": [[2, 3], [2, 3]]}},
        "positions is of kind heads, which sites says",
    ),
    "one row": (One(), {"positions": {"kind": "one"}}, "positions is of kind one, which sites"),
    "boxes of classification": (
        Proposals(3),
        {"task": "classification"},
        "of kind proposals, and those of its task, classification, are of kind one",
    ),
    "levels of segmentation": (
        Heads(((4, 3), (2, 2))),
        layout_fields(Pyramid(((4, 3), (2, 2)), (1, 1))),
        "of kind pyramid, and those of its task, segmentation, are of kind heads",
    ),
    "one row of a detector": (
        Pyramid(((2, 3), (1, 1)), (1, 1)),
        {"positions": None},
        f"of kind one, and those of its task, {BoxedLabel.task}, are of kind proposals or pyramid",
    ),
    "records of another layout": (
        Pyramid(((2, 3), (1, 1)), (1, 1)),
        layout_fields(Pyramid(((1, 3), (1, 1)), (1, 1))),
        "its records .* are not those of full",
    ),
    "more positions than bytes": (
        Pyramid(((2, 3), (1, 1)), (1, 1)),
        layout_fields(Pyramid(((16_384, 16_384),) * 16, (64,) * 16)),
        "there would be 274877906944 positions in a record",
    ),
    "many heads": (
        Heads(((4, 3), (2, 2))),
        {"positions": {"kind": "heads", "sizes": [[2, 3]] * 16 + [[1, 1]]}},
        "positions has 17 segments; at most 16 are read",
    ),
    "a huge side": (
        Heads(((4, 3), (2, 2))),
        {"positions": {"kind": "heads", "sizes": [[10**18, 1]]}},
        "positions: a side of sizes is 1000000000000000000",
    ),
    "a list": (Proposals(3), {"positions": [["kind", "one"]]}, "positions is .* an object or null"),
    "a kind of the future": (
        Proposals(3),
        {"positions": {"kind": "cuboids"}},
        "a newer one may know it: upgrade kdcache",
    ),
}


@pytest.mark.parametrize(("layout", "change", "told"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused_in_one_line(
    layout: Layout, change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    create_cache(tmp_path, manifest_of(layout))
    change_manifest(tmp_path, lambda document: document.update(change))
    with pytest.raises(CacheError, match=told) as raised:
        open_cache(tmp_path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 480


def test_a_cache_that_could_not_be_read_is_not_made(tmp_path: Path) -> None:
    made = dataclasses.replace(manifest_of(Proposals(3)), task="classification")
    with pytest.raises(UsageError, match=r"cannot be made: its positions are of kind proposals"):
        create_cache(tmp_path / "cache", made)


@every_store
def test_forged_boxes_are_refused_when_they_are_read(store: str, tmp_path: Path) -> None:
    layout = Proposals(3)
    cache = create_cache(tmp_path / "cache", manifest_of(layout, store=store))
    records = unit_records(cache, layout, 0, 0)
    check_records(codec_to_dict(cache.codec), records, None, CLASSES, layout)
    records["boxes"][5, 2, 0] = np.nan
    if store == "zarr":
        start_seed(cache, 0)
        commit_unit(cache, 0, 0, records)
    else:
        samples = [StoredSample(f"a/{row}") for row in range(8)]
        commit_unit(cache, 0, 0, np.stack([records, records]), samples)
    with pytest.raises(DamagedUnitError, match="record 5 of it holds NaN, infinity or a side"):
        made = open_cache(tmp_path / "cache")
        made.read_unit(made.commit_of(0, 0))
