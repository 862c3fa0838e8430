"""Subsets: some samples of a cache, whose rows stay where they are."""

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import contents, fill, flipped, manifest, records
from click.testing import CliRunner
from hub_server import hub_server
from runs import CONV, MLP, dump, losses, train, train_config
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import Cache, create_cache, open_cache, record_layout
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import Absence, ExportedFrom
from kdcache.cache.source import CachedNames, CachedSource
from kdcache.codec_error.cache_sample import sample_of_cache
from kdcache.codecs import LowRank, open_codec
from kdcache.errors import (
    CacheError,
    DamagedUnitError,
    KdcacheError,
    MismatchError,
    MissingUnitError,
    UnreadableSampleError,
    UsageError,
)
from kdcache.sources import open_source
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.garbage import collect_garbage
from kdcache.tools.hub import pull_cache, push_cache
from kdcache.tools.info import describe
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache
from kdcache.tools.show import show_view
from kdcache.train.trainer import Trainer
from kdcache.verify.cache import verify_cache
from kdcache_cli.commands import main

ROWS = 240
DATA = f"tiny_models:few_digits,length={ROWS}"
SHAPES: dict[str, dict[str, Any]] = {
    "zarr": {},
    "tars": {"store": "webdataset", "seeds_per_unit": 2},
    "names": {"store": "webdataset", "images": False},
}
SETTINGS: dict[str, Any] = {
    "data": DATA,
    "student": MLP,
    "batch_size": 16,
    "loss": "dist:tau=4",
    "epochs": 2,
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one dump in each kind of store, and a file of keys: every fifth sample,
    the last one first."""
    root = tmp_path_factory.mktemp("shelf")
    for name, settings in SHAPES.items():
        dump(root / name, data=DATA, codec="full:dtype=float32", unit_rows=64, **settings)
    source = open_source(DATA)
    (root / "keys.txt").write_text(
        "".join(f"{source.key(index)}\n" for index in range(ROWS - 5, 0, -5))
    )
    return root


def require_part(whole: Cache, part: Cache, samples: np.ndarray) -> None:
    """Check that `part` holds the records of these samples, bit for bit, and nothing else."""
    assert part.samples is not None and part.samples.tolist() == samples.tolist()
    rows = np.flatnonzero(np.isin(whole.order, samples))
    assert part.is_held.sum() == len(rows) == len(samples)
    for seed in whole.complete_seeds():
        assert part.read(seed, rows).tobytes() == whole.read(seed, rows).tobytes()
        units = np.concatenate([part.read_unit(commit) for commit in part.commits(seed)])
        others = np.ascontiguousarray(units[~part.is_held]).view(np.uint8)
        assert len(others) and not others.any()
    report = verify_cache(part)
    assert (
        report["faults"] == report["orphaned"] == report["foreign"] == []
        and report["missing"] == {}
    )
    assert collect_garbage(part, older_than="0s", delete=True)["keys"] == []


@pytest.mark.parametrize("store", SHAPES)
def test_a_subset_holds_the_same_records(shelf: Path, tmp_path: Path, store: str) -> None:
    result = export_cache(shelf / store, tmp_path / "part", samples="20:70")
    assert (result["samples"], result["rows"], result["complete_seeds"]) == (50, ROWS, [0, 1])
    whole, part = open_cache(shelf / store), open_cache(tmp_path / "part")
    require_part(whole, part, np.arange(20, 70))
    assert part.manifest.made_by.exported_from == ExportedFrom(manifest=whole.manifest.digest)
    assert [line.partition(":")[0] for line in whole.manifest.differences(part.manifest)] == [
        "samples.count",
        "samples.sha256",
    ]
    for seed, unit in whole.units():
        was, now = whole.whole_commit(seed, unit), part.whole_commit(seed, unit)
        assert (was.statistics, was.versions, was.start, was.stop) == (
            now.statistics,
            now.versions,
            now.start,
            now.stop,
        )
        kept = [probe for probe in was.probes if store != "tars" or part.is_held[probe.row]]
        assert now.probes == kept
        assert was.num_bytes > now.num_bytes or store == "names", (
            "nothing compresses records in tars"
        )
    before = contents(tmp_path / "part")
    for same in ("20:70", range(20, 70)):
        assert export_cache(shelf / store, tmp_path / "part", samples=same)["units_written"] == 0
    assert contents(tmp_path / "part") == before
    probes = [probe for unit in part.units() for probe in part.whole_commit(*unit).probes]
    assert (verify_cache(part, views=4, data=DATA)["views"]["checked"] > 0) == bool(probes)


@pytest.mark.parametrize("store", SHAPES)
def test_keys_come_from_the_data_or_from_the_list(shelf: Path, tmp_path: Path, store: str) -> None:
    data = DATA if store == "names" else None
    export_cache(shelf / store, tmp_path / "part", samples=str(shelf / "keys.txt"), data=data)
    require_part(open_cache(shelf / store), open_cache(tmp_path / "part"), np.arange(5, ROWS, 5))
    if store != "zarr":
        names, source = CachedNames(open_cache(tmp_path / "part")), open_source(DATA)
        assert [names.key(index) for index in range(len(names))] == [
            source.key(index) for index in range(ROWS)
        ]


def test_images_of_other_samples_are_gone_and_their_names_are_not(
    shelf: Path, tmp_path: Path
) -> None:
    export_cache(shelf / "tars", tmp_path / "part", samples="20:70")
    whole, part = (CachedSource(open_cache(path)) for path in (shelf / "tars", tmp_path / "part"))
    assert [part.key(index) for index in range(ROWS)] == [whole.key(index) for index in range(ROWS)]
    for index in (20, 69):
        assert part.sample(index).image.tobytes() == whole.sample(index).image.tobytes()
        assert part.sample(index).target == whole.sample(index).target
    for index in (19, 70):
        with pytest.raises(
            UnreadableSampleError,
            match=rf"sample {index} .* is not in the subset .*give --data SPEC",
        ):
            part.sample(index)


@pytest.mark.parametrize("store", SHAPES)
@pytest.mark.parametrize("window", [None, 2])
def test_a_training_from_it_is_that_from_the_whole_with_the_same_samples(
    shelf: Path, tmp_path: Path, store: str, window: int | None
) -> None:
    export_cache(shelf / store, tmp_path / "part", samples="40:104")
    settings = {**SETTINGS, "window": window, "data": None if store == "tars" else DATA}
    train(tmp_path / "one", cache=str(shelf / store), samples="40:104", **settings)
    done = train(tmp_path / "two", cache=str(tmp_path / "part"), **settings)
    assert done["steps"] == 2 * 4 and losses(tmp_path / "one") == losses(tmp_path / "two")
    train(
        tmp_path / "fewer",
        cache=str(tmp_path / "part"),
        samples="40:60",
        **{**settings, "epochs": 1},
    )
    assert len(losses(tmp_path / "fewer")) == 1


def test_labels_only_and_two_subsets_train_on_what_all_hold(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "one", samples="40:140")
    export_cache(shelf / "zarr", tmp_path / "two", samples="100:200")
    caches = str(tmp_path / "one"), str(tmp_path / "two")
    trainer = Trainer(train_config(tmp_path / "run", cache=caches, **SETTINGS))
    assert trainer.loader.replay.samples is not None
    assert sorted(trainer.loader.replay.order[trainer.loader.replay.samples]) == [*range(100, 140)]
    assert (
        train(tmp_path / "labels", cache=caches[0], **{**SETTINGS, "loss": "ce"})["steps"] == 2 * 6
    )
    export_cache(shelf / "zarr", tmp_path / "three", samples="0:40")
    with pytest.raises(MismatchError, match="are subsets without a sample in common"):
        train(tmp_path / "none", cache=(caches[0], str(tmp_path / "three")), **SETTINGS)


def test_samples_that_it_lacks_are_told_skipped_or_left_to_the_teacher(
    shelf: Path, tmp_path: Path
) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="40:140")
    settings = {**SETTINGS, "cache": str(tmp_path / "part"), "epochs": 1}
    way_out = (
        r"which does not hold sample 140 \(.*\); leave --samples out to train on what it holds, or"
        r" give --on-miss skip"
    )
    with pytest.raises(
        UsageError, match=rf"samples 100:200: cache .* is a subset of 100 of 240 samples, {way_out}"
    ):
        train(tmp_path / "error", samples="100:200", **settings)
    assert train(tmp_path / "skip", samples="100:200", on_miss="skip", **settings)["steps"] == 2
    teacher = {"on_miss": "teacher", "teacher": f"{CONV},seed=7"}
    assert train(tmp_path / "teacher", samples="100:200", **teacher, **settings)["steps"] == 6
    assert train(tmp_path / "held", **teacher, **settings)["steps"] == 6
    train(
        tmp_path / "online",
        samples="100:200",
        **{**settings, "cache": ()},
        teacher=teacher["teacher"],
        recipe="digits",
    )
    np.testing.assert_allclose(losses(tmp_path / "teacher"), losses(tmp_path / "online"), rtol=1e-5)
    with pytest.raises(KdcacheError, match="nothing to train on"):
        train(tmp_path / "nothing", samples="0:40", on_miss="skip", **settings)


@pytest.mark.parametrize("codec", ["full:dtype=float16", "full:dtype=uint8", "topk:k=3"])
def test_recoding_a_subset_is_a_subset_of_the_recoded(
    shelf: Path, tmp_path: Path, codec: str
) -> None:
    export_cache(shelf / "tars", tmp_path / "part", samples="20:70")
    result = recode_cache(tmp_path / "part", tmp_path / "one", codec=codec)
    recode_cache(shelf / "tars", tmp_path / "whole", codec=codec)
    export_cache(tmp_path / "whole", tmp_path / "two", samples="20:70")
    one, two = open_cache(tmp_path / "one"), open_cache(tmp_path / "two")
    require_part(open_cache(tmp_path / "whole"), one, np.arange(20, 70))
    assert one.manifest.differences(two.manifest) == [] and result["rows"] == 50
    for unit in one.units():
        assert one.unit_bytes(one.whole_commit(*unit)) == two.unit_bytes(two.whole_commit(*unit))
    assert result["after"]["bytes_per_view"] == result["after"]["bytes"] / (2 * 50)


def test_fits_see_no_zeros_and_go_along(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:170")
    whole, part = open_cache(shelf / "zarr"), open_cache(tmp_path / "part")
    pairs = sample_of_cache(part, num_rows=1000)
    rows = np.flatnonzero(part.is_held)
    assert sorted(set(pairs.groups.tolist())) == rows.tolist()
    assert torch.equal(pairs.teacher[: len(rows)], whole.codec.decode(whole.read(0, rows)).logits())
    recode_cache(tmp_path / "part", tmp_path / "lowrank", codec="lowrank:step=0.5")
    made = open_cache(tmp_path / "lowrank")
    decoded = made.codec.decode(made.read(0, rows)).logits()
    wanted = whole.codec.decode(whole.read(0, rows)).logits()
    assert float((decoded - (wanted - wanted.mean(1, keepdim=True))).abs().max()) < 1.0
    assert verify_cache(made)["faults"] == []
    export_cache(tmp_path / "lowrank", tmp_path / "fewer", samples="20:60")
    require_part(made, open_cache(tmp_path / "fewer"), np.arange(20, 60))
    with pytest.raises(MissingUnitError, match=r"sample 19 .* is not in the subset"):
        made.read(0, np.flatnonzero(made.order == 19))


def test_the_teacher_runs_again_on_held_views_only(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:50")
    report = verify_cache(
        open_cache(tmp_path / "part"), views=16, data=DATA, teacher=f"{CONV},seed=7"
    )
    assert (
        report["faults"] == []
        and report["teacher"]["views"] > 4
        and report["teacher"]["beyond"] == 0
    )


def test_from_store_to_store(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")
    convert_cache(tmp_path / "part", tmp_path / "tars", store="webdataset", data=DATA)
    made = open_cache(tmp_path / "tars")
    require_part(open_cache(shelf / "zarr"), made, np.arange(20, 70))
    source = CachedSource(made)
    assert source.sample(30).image.size == (8, 8)
    with pytest.raises(UnreadableSampleError, match="not in the subset"):
        source.sample(3)
    assert verify_cache(made, views=8, data=f"{DATA}")["views"]["checked"] > 0
    result = convert_cache(tmp_path / "tars", tmp_path / "zarr", store="zarr")
    require_part(open_cache(shelf / "zarr"), open_cache(tmp_path / "zarr"), np.arange(20, 70))
    assert result["rows"] == 50 and result["bytes_per_view"] == result["bytes"] / 100


def test_a_subset_of_a_subset(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")
    export_cache(tmp_path / "part", tmp_path / "fewer", samples="30:40")
    require_part(open_cache(shelf / "zarr"), open_cache(tmp_path / "fewer"), np.arange(30, 40))
    with pytest.raises(
        UsageError,
        match=r"is a subset of 50 of 240 samples, which does not hold sample 70; give samples",
    ):
        export_cache(tmp_path / "part", tmp_path / "more", samples="60:80")
    for again in (None, "20:70"):
        export_cache(tmp_path / "part", tmp_path / f"copy{again}", samples=again)
        assert (
            open_cache(tmp_path / f"copy{again}").manifest.digest
            == open_cache(tmp_path / "part").manifest.digest
        )
    export_cache(shelf / "zarr", tmp_path / "whole", samples=f"0:{ROWS}")
    assert (
        open_cache(tmp_path / "whole").manifest.digest == open_cache(shelf / "zarr").manifest.digest
    )


def test_subsets_of_the_same_samples_are_merged(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "one", samples="20:70", seeds="0:1")
    export_cache(shelf / "zarr", tmp_path / "two", samples="20:70", seeds="1:2")
    assert merge_caches(tmp_path / "both", [tmp_path / "one", tmp_path / "two"])[
        "complete_seeds"
    ] == [0, 1]
    require_part(open_cache(shelf / "zarr"), open_cache(tmp_path / "both"), np.arange(20, 70))
    export_cache(shelf / "zarr", tmp_path / "other", samples="21:71")
    for other in (tmp_path / "other", shelf / "zarr"):
        with pytest.raises(MismatchError, match=r"samples\.sha256"):
            merge_caches(tmp_path / "bad", [tmp_path / "one", other])


def test_an_export_that_was_stopped_goes_on(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_cache(shelf / "zarr", tmp_path / "straight", samples="20:70")
    done = []

    def stops(cache: Cache, seed: int, unit: int, *args: Any, **facts: Any) -> Any:
        if (seed, unit) == (1, 1):
            raise KeyboardInterrupt
        done.append((seed, unit))
        return commit_unit(cache, seed, unit, *args, **facts)

    monkeypatch.setattr("kdcache.tools.unit_copies.commit_unit", stops)
    with pytest.raises(KeyboardInterrupt):
        export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")
    monkeypatch.undo()
    assert (0, 0) in done
    with pytest.raises(MismatchError, match="samples"):
        export_cache(shelf / "zarr", tmp_path / "part", samples="20:71")
    assert export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")[
        "units_written"
    ] == 8 - len(done)
    one, two = open_cache(tmp_path / "straight"), open_cache(tmp_path / "part")
    for unit in one.units():
        assert one.unit_bytes(one.whole_commit(*unit)) == two.unit_bytes(two.whole_commit(*unit))


def test_what_a_killed_writer_left_before_the_manifest_is_no_hindrance(
    shelf: Path, tmp_path: Path
) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")
    export_cache(shelf / "zarr", tmp_path / "other", samples="30:70")
    (tmp_path / "other" / "zarr.json").unlink()
    for folder in ("seeds", "commits", "extents"):
        (tmp_path / "other" / folder).rename(tmp_path / folder)
    export_cache(shelf / "zarr", tmp_path / "other", samples="20:70")
    inventory = verify_cache(open_cache(tmp_path / "other"))
    assert inventory["foreign"] == [] and {key.split("/")[0] for key in inventory["orphaned"]} == {
        "samples"
    }
    assert (
        len(collect_garbage(open_cache(tmp_path / "other"), older_than="0s", delete=True)["keys"])
        == 3
    )
    require_part(open_cache(shelf / "zarr"), open_cache(tmp_path / "other"), np.arange(20, 70))


def test_damage_is_noticed(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples=str(shelf / "keys.txt"), data=DATA)
    (path,) = (file for file in tmp_path.glob("part/samples/*/numbers/c/*") if file.is_file())
    data = path.read_bytes()
    for position in (0, len(data) // 2, len(data) - 1):
        path.write_bytes(flipped(data, position, 0x80))
        message = (
            r"the list of its samples \(samples/\w{16}\) is absent or damaged; restore it from a"
            r" copy"
        )
        with pytest.raises(CacheError, match=message):
            open_cache(tmp_path / "part").read(0, [0])
        assert any(
            "the list of its samples" in fault
            for fault in verify_cache(open_cache(tmp_path / "part"))["faults"]
        )
    path.unlink()
    with pytest.raises(CacheError, match="absent or damaged"):
        _ = open_cache(tmp_path / "part").samples
    whole = fill(tmp_path / "whole", 0)
    key = tmp_path / "whole" / whole.commit_of(0, 1).key
    key.write_bytes(flipped(key.read_bytes(), 30, 1))
    with pytest.raises(DamagedUnitError, match=r"seed 0, unit 1 .*SHA-256"):
        export_cache(tmp_path / "whole", tmp_path / "new", samples="0:5")
    assert (0, 1) not in open_cache(tmp_path / "new").units()


def test_absent_samples_stay_absent(tmp_path: Path) -> None:
    whole = create_cache(tmp_path / "whole", manifest(skip_unreadable=True))
    absent = [Absence(row=int(row), reason="broken") for row in np.flatnonzero(whole.order < 4)]
    for unit in range(3):
        rows = whole.manifest.unit_range(unit)
        gone = [one for one in absent if one.row in rows]
        made = records(whole, 0, unit)
        made[[one.row - rows.start for one in gone]] = np.zeros((), made.dtype)
        commit_unit(whole, 0, unit, made, absent=gone)
    export_cache(tmp_path / "whole", tmp_path / "part", samples="2:8")
    part = open_cache(tmp_path / "part")
    assert sum(len(commit.absent) for commit in part.commits(0)) == 2
    absent_rows, missing = part.unavailable(part.commits(0))
    assert sorted(part.order[absent_rows]) == [2, 3] and sorted(part.order[missing]) == [
        0,
        1,
        *range(8, 20),
    ]
    slab = part.slab(0)
    for row, reason in (
        (absent_rows[0], "recorded as absent"),
        (missing[0], "of a sample that is not in this subset"),
    ):
        with pytest.raises(MissingUnitError, match=f"row {row} is {reason}"):
            slab.gather(np.array([row]))


def test_of_lowrank_and_topk(tmp_path: Path) -> None:
    spec = open_codec("lowrank:step=0.5", classes=5)
    assert isinstance(spec, LowRank)
    codec = spec.fit(torch.randn(64, 5, generator=torch.Generator().manual_seed(0)))
    whole = create_cache(tmp_path / "whole", manifest(codec), codec.fit_arrays())
    for unit in range(3):
        start_seed(whole, 0)
        commit_unit(whole, 0, unit, records(whole, 0, unit))
    export_cache(tmp_path / "whole", tmp_path / "part", samples="2:8")
    require_part(whole, open_cache(tmp_path / "part"), np.arange(2, 8))
    fill(tmp_path / "topk", 0, codec="topk:k=2")
    export_cache(tmp_path / "topk", tmp_path / "fewer", samples="2:8")
    require_part(open_cache(tmp_path / "topk"), open_cache(tmp_path / "fewer"), np.arange(2, 8))


@pytest.mark.parametrize("spec", ["full:dtype=uint8", "topk:k=16", "lowrank:step=1"])
def test_a_tenth_takes_a_fifth_to_a_quarter_of_the_bytes(tmp_path: Path, spec: str) -> None:
    rows, head = 8_000, torch.randn(64, 500, generator=torch.Generator().manual_seed(0)) / 4

    def drawn(count: int, seed: int) -> torch.Tensor:
        return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)) @ head

    codec = open_codec(spec, classes=500)
    codec = codec.fit(drawn(1500, 1)) if isinstance(codec, LowRank) else codec
    layout = {name: value for name, value in record_layout(codec, rows).items() if name != "codec"}
    whole = create_cache(
        tmp_path / "whole", manifest(codec, 500, rows=rows, **layout), codec.fit_arrays()
    )
    for unit in range(whole.manifest.num_units):
        commit_unit(
            whole, 0, unit, codec.encode(drawn(len(whole.manifest.unit_range(unit)), 2 + unit))
        )
    export_cache(tmp_path / "whole", tmp_path / "part", samples="0:800")
    before, after = (describe(open_cache(tmp_path / name))["bytes"] for name in ("whole", "part"))
    assert 0.15 < after / before < 0.30


def test_what_is_refused(shelf: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("no/such.png\n")
    cases = {
        "5:5": "samples '5:5' are none, or past the last of 240",
        "0:241": "past the last of 240",
        "nowhere.txt": "neither A:B nor a text file",
        str(keys): r"source cache:.* has no sample 'no/such.png'; keys are such as",
    }
    for samples, message in cases.items():
        with pytest.raises(UsageError, match=message):
            export_cache(shelf / "tars", tmp_path / "new", samples=samples)
    with pytest.raises(MismatchError, match="digits:test is not what cache"):
        export_cache(
            shelf / "zarr", tmp_path / "new", samples=str(shelf / "keys.txt"), data="digits:test"
        )
    for samples in (None, "0:5"):
        with pytest.raises(
            UsageError, match=r"data .* tells the keys of samples, and none are given"
        ):
            export_cache(shelf / "zarr", tmp_path / "new", samples=samples, data=DATA)
    assert not (tmp_path / "new").exists()


def test_mixed_views_need_the_images_of_their_partners(tmp_path: Path) -> None:
    recipe = tmp_path / "mixes.toml"
    recipe.write_text(
        'size = 8\nmode = "L"\neval = "eval"\ntransforms = []\n[mixing]\nmixup = 1.0\nblock = 16\n'
    )
    settings: dict[str, Any] = {
        "data": DATA,
        "recipe": str(recipe),
        "seeds": "0:1",
        "unit_rows": 64,
        "codec": "full:dtype=float32",
    }
    dump(tmp_path / "tars", store="webdataset", **settings)
    with pytest.raises(
        UsageError, match=r"recipe mixes mixes each view .*kdcache convert .* --store zarr"
    ):
        export_cache(tmp_path / "tars", tmp_path / "part", samples="40:140")
    dump(tmp_path / "zarr", **settings)
    export_cache(tmp_path / "zarr", tmp_path / "part", samples="40:140")
    with pytest.raises(UsageError, match=r"recipe mixes mixes each view .*--no-images"):
        convert_cache(tmp_path / "part", tmp_path / "images", store="webdataset", data=DATA)
    train(tmp_path / "one", cache=str(tmp_path / "zarr"), samples="40:140", **SETTINGS)
    train(tmp_path / "two", cache=str(tmp_path / "part"), **SETTINGS)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_a_dump_does_not_go_on_in_it(shelf: Path, tmp_path: Path) -> None:
    export_cache(shelf / "zarr", tmp_path / "part", samples="20:70")
    with pytest.raises(
        MismatchError, match=r"was made otherwise \(samples\.count: 50 in the cache.*it is a subset"
    ):
        dump(tmp_path / "part", data=DATA, codec="full:dtype=float32", unit_rows=64, seeds="2:3")


def test_info_and_a_picture(shelf: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["export", str(shelf / "zarr"), str(tmp_path / "part"), "--samples", "20:70"]
    )
    assert done.exit_code == 0 and "samples  50 of 240" in done.stdout, done.output
    said = CliRunner().invoke(main, ["info", str(tmp_path / "part")]).stdout
    assert "samples  50 of 240\n" in said, said
    result = describe(part := open_cache(tmp_path / "part"))
    assert result["bytes_per_view"] == result["bytes"] / (2 * 50)
    with pytest.raises(
        MissingUnitError,
        match=r"sample 3 \(row \d+\) is not in the subset that cache .* holds, of 50 of 240",
    ):
        show_view(part, tmp_path / "view.png", index=3, seed=0, data=DATA)


def test_buckets_and_the_hub(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as port, environ(**environment(port)):
        url = f"s3://{BUCKET}/{secrets.token_hex(4)}"
        export_cache(shelf / "tars", f"{url}/part", samples="20:70")
        export_cache(f"{url}/part", tmp_path / "fewer", samples=str(_keys(tmp_path, range(30, 40))))
        require_part(open_cache(shelf / "tars"), open_cache(f"{url}/part"), np.arange(20, 70))
        require_part(open_cache(shelf / "tars"), open_cache(tmp_path / "fewer"), np.arange(30, 40))
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        pushed = push_cache(tmp_path / "fewer", "hf://datasets/lab/part")
        (files,) = [server.files("lab/part", pushed["revision"])]
        assert files is not None and b"10 of 240 samples" in files["README.md"]
        pull_cache("hf://datasets/lab/part", tmp_path / "back")
    require_part(open_cache(shelf / "tars"), open_cache(tmp_path / "back"), np.arange(30, 40))
    assert (tmp_path / "back" / commit_key(0, 0)).read_bytes() == (
        tmp_path / "fewer" / commit_key(0, 0)
    ).read_bytes()


def _keys(folder: Path, samples: range) -> Path:
    source, file = open_source(DATA), folder / "some.txt"
    file.write_text("\n".join(source.key(index) for index in samples))
    return file
