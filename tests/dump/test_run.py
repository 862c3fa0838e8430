import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from caches import contents, temporaries
from PIL import Image
from runs import CONV, DIGITS, IN_PROCESS, MLP, dump, largest_file, train
from safetensors.torch import save_file
from tiny_models import FEW

from kdcache.cache import Cache, open_cache
from kdcache.cache.absences import absent_reasons
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import CodecEntry
from kdcache.cache.formats.zarr import object_key
from kdcache.cache.source import CachedSource
from kdcache.codecs import codec_spec
from kdcache.dump.plan import plan_dump
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.errors import (
    CacheError,
    CodecError,
    MismatchError,
    MissingUnitError,
    SourceError,
    UnreadableSampleError,
    UsageError,
)
from kdcache.models.model import open_model
from kdcache.runtime.device import ComputeConfig
from kdcache.shapes import Logits, Targets
from kdcache.sources import open_source
from kdcache.tasks.classification import logit_statistics
from kdcache.views import Batch, ViewDataset, load_recipe
from kdcache.views.permutation import row_order

EXACT = "full:dtype=float32"


def config(path: Path, **changes: Any) -> DumpConfig:
    settings: dict[str, Any] = {
        "data": DIGITS,
        "teacher": f"{CONV},seed=7",
        "recipe": "digits",
        "compute": IN_PROCESS,
    }
    return DumpConfig(cache=str(path), **{**settings, "batch_size": 128, **changes})


def direct(
    cache: Cache, seed: int, data: str = DIGITS, teacher: str = f"{CONV},seed=7"
) -> tuple[Logits, Targets]:
    """Return the teacher's logits of all rows, computed without a dump, and the targets."""
    recipe = load_recipe("digits")
    dataset = ViewDataset(open_source(data), recipe, cache.order, sizes=[8], skip_unreadable=True)
    batch = dataset.__getitems__([(row, seed) for row in range(cache.manifest.rows)])
    assert isinstance(batch, Batch)
    model = open_model(teacher, classes=cache.manifest.classes, recipe=recipe).eval()
    with torch.inference_mode():
        return model(batch.views[0]), batch.labels.first


def images(folder: Path, count: int, *broken: int) -> str:
    for index in range(count):
        path = folder / f"class{index * 3 // count}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)).save(
            path
        )
        if index in broken:
            path.write_bytes(b"not an image")
    return f"imagefolder:{folder}"


def test_records_are_the_teachers_logits_and_the_figures_are_right(tmp_path: Path) -> None:
    result = dump(tmp_path, codec=EXACT, unit_rows=12)
    cache = open_cache(tmp_path)
    accuracies = []
    for seed in (0, 1):
        logits, targets = direct(cache, seed)
        stored = torch.from_numpy(cache.read(seed, range(FEW))["logits"].copy())
        torch.testing.assert_close(stored, logits, rtol=1e-5, atol=1e-5)
        for commit in cache.commits(seed):
            rows = slice(commit.start, commit.stop)
            expected = logit_statistics(logits[rows], targets[rows])
            means = {name: float(value) for name, value in expected.items()}
            assert commit.statistics == pytest.approx(means, rel=1e-4)
        accuracies.append(100 * float((logits.argmax(1) == targets).float().mean()))
    assert (
        result["teacher_accuracy"] == pytest.approx(np.mean(accuracies))
        and accuracies[0] != accuracies[1]
    )
    assert (
        result["rows"] == FEW
        and result["units_written"] == 2 * 6
        and result["seeds"] == [0, 1]
        and result["absent"] == 0
    )
    size = sum(len(data) for name, (data, _) in contents(tmp_path).items() if "records/c/" in name)
    assert result["bytes"] == size and result["bytes_per_view"] == size / (2 * FEW)


def test_run_again_it_writes_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    dump(tmp_path, unit_rows=8)
    whole = contents(tmp_path)
    assert dump(tmp_path, unit_rows=8)["units_written"] == 0
    assert contents(tmp_path) == whole
    lost = [(0, 2), (0, 7), (1, 0)]
    for seed, unit in lost:
        (tmp_path / commit_key(seed, unit)).unlink()
    (
        tmp_path / object_key(0, 2)
    ).unlink()  # the other two are as if killed between object and commit
    kept = contents(tmp_path)
    assert dump(tmp_path, unit_rows=8)["units_written"] == len(lost)
    after = contents(tmp_path)
    assert {name: after[name] for name in kept} == kept
    written = {commit_key(seed, unit) for seed, unit in lost} | {object_key(0, 2)}
    assert set(after) - set(kept) == written and set(after) == set(whole)
    assert {name: data for name, (data, _) in after.items() if name not in written} | {
        object_key(0, 2): after[object_key(0, 2)][0]
    } == {
        name: data
        for name, (data, _) in whole.items()
        if not name.startswith("commits") or name not in written
    }


def test_more_seeds_change_nothing_that_is_there(tmp_path: Path) -> None:
    dump(tmp_path, seeds="0:1", unit_rows=25)
    before = contents(tmp_path)
    assert dump(tmp_path, seeds="0:1,5", unit_rows=25)["units_written"] == 3
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert open_cache(tmp_path).complete_seeds() == [0, 5]
    new = set(after) - set(before)
    assert all("00005" in name or name.startswith("extents/") for name in new)


def test_workers_change_no_byte_and_batch_sizes_no_more_than_rounding(tmp_path: Path) -> None:
    for name, changes in {
        "plain": {},
        "workers": {"compute": ComputeConfig(workers=2, device="cpu")},
        "batches": {"batch_size": 17},
    }.items():
        run_dump(config(tmp_path / name, codec=EXACT, unit_rows=16, **changes))
    plain, workers, batches = (
        open_cache(tmp_path / name) for name in ("plain", "workers", "batches")
    )
    for unit in range(4):
        assert plain.storage.get(object_key(0, unit)) == workers.storage.get(object_key(0, unit))
    rows = range(FEW)
    np.testing.assert_allclose(
        plain.read(0, rows)["logits"], batches.read(0, rows)["logits"], rtol=1e-5, atol=1e-5
    )


def test_batches_never_cross_units(tmp_path: Path) -> None:
    """So a unit is computed in the same batches whichever other units are there."""
    settings: dict[str, Any] = {
        "teacher": "tiny_models:batchwise",
        "batch_size": 8,
        "unit_rows": 12,
        "codec": EXACT,
    }
    dump(tmp_path, seeds="0:1", **settings)
    for unit in (1, 3, 4):
        (tmp_path / commit_key(0, unit)).unlink()
        (tmp_path / object_key(0, unit)).unlink()
    dump(tmp_path, seeds="0:1", **settings)
    sizes = open_cache(tmp_path).read(0, range(FEW))["logits"][:, 0]
    assert sizes.tolist() == ([8.0] * 8 + [4.0] * 4) * 5 + [4.0] * 4


def test_a_unit_is_a_random_subset_of_the_source(tmp_path: Path) -> None:
    data = images(tmp_path / "images", 90)
    dump(
        tmp_path / "cache", data=data, teacher=f"{CONV},classes=3,seed=7", seeds="0:1", unit_rows=15
    )
    cache, source = open_cache(tmp_path / "cache"), open_source(data)
    for unit in range(6):
        classes = {
            source.sample(int(cache.order[row])).target for row in cache.manifest.unit_range(unit)
        }
        assert classes == {0, 1, 2}, "the folder lists one class after the other"


def test_an_unreadable_sample_stops_the_dump_and_what_is_committed_stays(tmp_path: Path) -> None:
    row = 41
    broken = int(row_order(60, 0)[row])
    data = images(tmp_path / "images", 60, broken)
    teacher = f"{CONV},classes=3,seed=7"
    with pytest.raises(UnreadableSampleError, match=rf"/{broken:02d}\.png.*--skip-unreadable"):
        dump(tmp_path / "cache", data=data, teacher=teacher, seeds="0:1", unit_rows=4, batch_size=4)
    cache = open_cache(tmp_path / "cache")
    done = cache.committed_units(0)
    assert done == list(range(len(done))) and row // 4 - 2 <= len(done) <= row // 4
    for unit in done:
        cache.read_unit(cache.commit_of(0, unit))


def test_unreadable_samples_are_recorded_on_request(tmp_path: Path) -> None:
    broken = (2, 3, 5, 7, 11, 40)
    data = images(tmp_path / "images", 42, *broken)
    settings: dict[str, Any] = {
        "data": data,
        "teacher": f"{CONV},classes=3,seed=7",
        "seeds": "0:1",
        "unit_rows": 16,
    }
    result = dump(tmp_path / "cache", skip_unreadable=True, codec=EXACT, **settings)
    cache = open_cache(tmp_path / "cache")
    gone = [absence for commit in cache.commits(0) for absence in commit.absent]
    absent = [absence.row for absence in gone]
    assert sorted(cache.order[absent].tolist()) == list(broken)
    assert result["absent"] == len(broken)
    assert result["absent_reasons"] == [one.reason for one in gone][:3]
    assert absent_reasons(cache) == {one.reason: 1 for one in gone}
    assert all(f"/{cache.order[one.row]:02d}.png) of" in one.reason for one in gone)
    there = np.setdiff1d(np.arange(42), absent)
    logits, targets = direct(cache, 0, data, settings["teacher"])
    np.testing.assert_allclose(
        cache.read(0, there)["logits"], logits[there].numpy(), rtol=1e-5, atol=1e-5
    )
    for row in absent:
        with pytest.raises(MissingUnitError, match=f"row {row} is recorded as absent"):
            cache.read(0, [row])
    right = (logits.argmax(1) == targets)[there].float().mean()
    assert result["teacher_accuracy"] == pytest.approx(100 * float(right)), (
        "absent rows count neither for nor against it"
    )
    assert all(probe.row not in absent for commit in cache.commits(0) for probe in commit.probes)
    with pytest.raises(
        MismatchError, match="skip_unreadable: true in the cache, false now"
    ) as told:
        dump(tmp_path / "cache", codec=EXACT, **settings)
    assert "the same setting: skip_unreadable holds for a whole cache" in str(told.value)


def test_a_sample_that_cannot_be_read_is_told_before_there_is_a_cache(tmp_path: Path) -> None:
    """It is met where a codec is measured; skipping is then a setting of a cache that is new."""
    settings: dict[str, Any] = {
        "data": images(tmp_path / "images", 42, 7),
        "teacher": f"{CONV},classes=3,seed=7",
        "codec": "lowrank:step=1",
    }
    way_out = "or dump with --skip-unreadable to record it as absent"
    with pytest.raises(UnreadableSampleError, match=way_out):
        dump(tmp_path / "cache", **settings)
    assert not (tmp_path / "cache").exists()
    assert dump(tmp_path / "cache", skip_unreadable=True, **settings)["absent"] == 2


def test_how_to_skip_a_sample_depends_on_what_the_cache_holds(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data": images(tmp_path / "images", 42, 7),
        "teacher": f"{CONV},classes=3,seed=7",
        "codec": EXACT,
        "seeds": "0:1",
    }
    removal = f"remove the folder \\(rm -r {tmp_path}/one\\)"
    with pytest.raises(UnreadableSampleError, match=f"or {removal}, which holds no unit yet, if"):
        dump(tmp_path / "one", **settings)
    before = contents(tmp_path / "one")
    with pytest.raises(MismatchError, match=f"if no other dump is at work on it, {removal}, and"):
        dump(tmp_path / "one", skip_unreadable=True, **settings)
    assert contents(tmp_path / "one") == before, "another dump may be at work on its first unit"
    small = {"unit_rows": 1, "batch_size": 1, **settings}
    with pytest.raises(UnreadableSampleError, match="--skip-unreadable into a new folder to rec"):
        dump(tmp_path / "many", **small)


@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_a_mount_that_went_away_is_no_set_of_unreadable_samples(tmp_path: Path, store: str) -> None:
    data = images(tmp_path / "images", 12, *range(12))
    settings: dict[str, Any] = {
        "data": data,
        "teacher": f"{CONV},classes=3,seed=7",
        "seeds": "0:2",
        "store": store,
    }
    with pytest.raises(
        SourceError,
        match=r"8 of the 8 samples of unit 0 cannot be read.* The first: sample \d+ \(class",
    ) as caught:
        dump(tmp_path / "cache", skip_unreadable=True, codec=EXACT, unit_rows=8, **settings)
    assert not isinstance(caught.value, UnreadableSampleError) and len(str(caught.value)) < 500
    assert not open_cache(tmp_path / "cache").committed_units(0)


@pytest.mark.parametrize(
    ("count", "broken", "is_believed"),
    [(64, 17, False), (64, 12, True), (72, 15, True), (96, 17, True)],
)
def test_a_share_of_unreadable_samples_that_cannot_be_believed_stops_a_dump(
    tmp_path: Path, count: int, broken: int, is_believed: bool
) -> None:
    data = images(tmp_path / "images", count, *range(broken))
    settings: dict[str, Any] = {
        "data": data,
        "teacher": f"{CONV},classes=3,seed=7",
        "seeds": "0:1",
        "unit_rows": 128,
    }
    with (
        nullcontext()
        if is_believed
        else pytest.raises(SourceError, match=r"1[67] of the 64 samples of unit 0 cannot be read")
    ):
        assert (
            dump(tmp_path / "cache", skip_unreadable=True, batch_size=8, **settings)["absent"]
            == broken
        )
    assert open_cache(tmp_path / "cache").committed_units(0) == ([0] if is_believed else [])


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.EACCES, errno.EMFILE]
)
def test_what_the_storage_refuses_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    data = images(tmp_path / "images", 12)
    opened = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
        if str(path).endswith("05.png"):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    settings: dict[str, Any] = {"data": data, "teacher": f"{CONV},classes=3,seed=7", "seeds": "0:1"}
    with pytest.raises(
        SourceError, match=r"sample 5 \(class1/05.png\) .* cannot be read: \w*Error: "
    ) as caught:
        dump(tmp_path / "cache", skip_unreadable=True, codec=EXACT, **settings)
    assert not isinstance(caught.value, UnreadableSampleError)


def test_paths_and_names_of_any_bytes_go_through_a_dump_and_a_training(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    data = images(root / "images", 12, 3)
    (root / "images" / "class1" / "05.png").rename(
        os.fsdecode(os.fsencode(root) + b"/images/class1/\xff\xfe.png")
    )
    settings: dict[str, Any] = {
        "data": data,
        "teacher": f"{CONV},classes=3,seed=7",
        "seeds": "0:1",
        "skip_unreadable": True,
    }
    dump(root / "cache", store="webdataset", codec=EXACT, **settings)
    assert dump(root / "cache", store="webdataset", codec=EXACT, **settings)["units_written"] == 0
    keys = {CachedSource(open_cache(root / "cache")).key(index) for index in range(12)}
    assert "class1/\udcff\udcfe.png" in keys and keys == {
        open_source(data).key(index) for index in range(12)
    }
    student: dict[str, Any] = {
        "cache": (str(root / "cache"),),
        "student": f"{MLP},classes=3",
        "loss": "kl",
        "batch_size": 4,
    }
    for source in (None, data, data):
        assert train(root / f"run{source is None}", epochs=1, data=source, **student)["epochs"] == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [("", "NaN or infinite logits"), (",value=2e12", r"logits of 1\.1e\+12 and more")],
)
def test_logits_that_no_record_holds_keep_the_units_before(
    tmp_path: Path, value: str, told: str
) -> None:
    settings: dict[str, Any] = {
        "teacher": f"tiny_models:poisoned,mean=0.5,std=0.55{value}",
        "seeds": "0:1",
        "unit_rows": 2,
        "batch_size": 2,
    }
    with pytest.raises(
        CodecError, match=rf"gives {told} for sample \d{{8}} \(row \d+, seed 0\); check its weights"
    ) as error:
        dump(tmp_path, **settings)
    row = int(str(error.value).split("row ")[1].split(",")[0])
    cache, before = open_cache(tmp_path), contents(tmp_path)
    assert cache.committed_units(0) == list(range(row // 2)) and row >= 2
    for unit in cache.committed_units(0):
        cache.read_unit(cache.commit_of(0, unit))
    with pytest.raises(CodecError, match=rf"\(row {row}, seed 0\)"):
        dump(tmp_path, **settings)
    assert contents(tmp_path) == before


def test_a_full_disk_stops_the_dump_and_it_goes_on_later(tmp_path: Path) -> None:
    many = f"{DIGITS},length=256"
    settings: dict[str, Any] = {"data": many, "seeds": "0:1", "unit_rows": 192, "codec": EXACT}
    with (
        largest_file(4_000),
        pytest.raises(CacheError, match=r"c/0/0 \(\d+ bytes\).*free some space and run"),
    ):
        dump(tmp_path, **settings)
    cache = open_cache(tmp_path)
    assert cache.committed_units(0) == [] and list(temporaries(cache.storage)) == []
    assert dump(tmp_path, **settings)["units_written"] == 2


@pytest.mark.parametrize("codec", [EXACT, "lowrank:step=0.5", "topk:k=2"])
def test_a_plan_writes_nothing_and_says_what_comes(tmp_path: Path, codec: str) -> None:
    settings = config(tmp_path / "cache", seeds="0:3", unit_rows=32, codec=codec)
    plan = plan_dump(settings)
    assert not (tmp_path / "cache").exists()
    assert plan["views"] == 3 * FEW and plan["units"] == 6 and plan["units_done"] == 0
    assert plan["seconds"] > 0 and plan["views_per_second"] > 0 and plan["free_bytes"] > 0
    result = run_dump(settings)
    files = contents(tmp_path / "cache")
    assert plan["files"] == len(files)
    assert plan["bytes"] == pytest.approx(result["bytes"], rel=0.05)
    again = plan_dump(config(tmp_path / "cache", seeds="0:4", unit_rows=32, codec=codec))
    assert again["units"] == 8 and again["units_done"] == 6
    assert again["gradient_error"] == ({} if codec == EXACT else plan["gradient_error"]), (
        "a dump measures no exact codec"
    )
    assert set(plan["gradient_error"]) == {"1", "4"}
    assert all(
        error == 0 if codec == EXACT else 0 < error < 2 for error in plan["gradient_error"].values()
    )
    assert {
        f"{case['tau']:g}": pytest.approx(case["both"]["error"], rel=1e-3)
        for case in plan["gradients"]
    } == plan["gradient_error"]
    assert again["gradients"] == []
    assert contents(tmp_path / "cache") == files


def test_the_precision_is_recorded_and_must_stay(tmp_path: Path) -> None:
    bfloat16 = ComputeConfig(workers=0, device="cpu", precision="bfloat16")
    run_dump(config(tmp_path / "half", compute=bfloat16, codec=EXACT))
    run_dump(config(tmp_path / "whole", codec=EXACT))
    half, whole = open_cache(tmp_path / "half"), open_cache(tmp_path / "whole")
    assert (
        half.manifest.teacher.precision == "bfloat16"
        and whole.manifest.teacher.precision == "float32"
    )
    exact, rounded = (cache.read(0, range(FEW))["logits"] for cache in (whole, half))
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.05 * np.abs(exact).max())
    with pytest.raises(
        MismatchError, match=r'teacher\.precision: "bfloat16" in the cache, "float32" now'
    ):
        run_dump(config(tmp_path / "half", codec=EXACT))


def test_unit_rows_that_leave_only_small_chunks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"unit_rows is 100003.*chunks of 1 rows only.*power of two"
    ):
        run_dump(config(tmp_path / "cache", unit_rows=100_003))
    assert not (tmp_path / "cache").exists()


def test_few_seeds_are_told_with_those_that_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "cache", seeds="0:2")
    note = (
        "note: 100 epochs of 2 seeds would show a student each view 50 times; it usually learns"
        " more from about 25: --seeds 0:25 adds them\n"
    )
    assert note in capsys.readouterr().err
    still = tmp_path / "still.toml"
    still.write_text('mode = "L"\nsize = 8\neval = "digits"\ntransforms = []\n')
    dump(tmp_path / "still", seeds="0:1", recipe=str(still))
    dump(tmp_path / "cache", seeds="2:13")
    dump(tmp_path / "cache", seeds="3")
    assert "each view" not in capsys.readouterr().err, "the cache has enough by then"
    dump(tmp_path / "tars", seeds="0:2", store="webdataset")
    assert "about 25: --seeds 0:26 adds them\n" in capsys.readouterr().err, "tars hold two seeds"


def test_a_teacher_at_chance_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.dump.plan.PLAN_SECONDS", 60.0)  # long enough for all views
    accuracy = dump(tmp_path / "cache", seeds="0:1", unit_rows=256)["teacher_accuracy"]
    assert (
        accuracy < 20
        and f"note: the teacher is right on {accuracy:.1f} % of these views, chance is 10.0 %"
        in capsys.readouterr().err
    )
    assert plan_dump(config(tmp_path / "plan", seeds="0:1", unit_rows=256))[
        "teacher_accuracy"
    ] == pytest.approx(accuracy, abs=0.01)


def test_the_same_weights_used_otherwise_are_another_teacher(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), weights)
    teacher = f"timm:test_resnet,input_size=32,weights={weights}"
    dump(tmp_path / "cache", teacher=teacher, seeds="0:1")
    assert (
        dump(
            tmp_path / "cache",
            teacher=f"{teacher},mean=0.5,std=0.5",
            seeds="0:1",
        )["units_written"]
        == 0
    )
    dropping = dump(tmp_path / "cache", teacher=f"{teacher},drop_rate=0.5", seeds="0:1")
    assert dropping["units_written"] == 0, "a teacher drops nothing"
    with pytest.raises(MismatchError, match=r"teacher\.architecture.*global_pool=max"):
        dump(tmp_path / "cache", teacher=f"{teacher},global_pool=max", seeds="1")


def test_a_cache_without_units_may_be_removed(tmp_path: Path) -> None:
    with pytest.raises(CodecError):
        dump(tmp_path / "cache", teacher="tiny_models:poisoned,mean=0,std=1", seeds="0:1")
    with pytest.raises(MismatchError, match="it holds no unit yet: if no other dump is at work"):
        dump(
            tmp_path / "cache",
            teacher="tiny_models:poisoned,mean=0,std=1",
            seeds="0:1",
            codec=EXACT,
        )


@pytest.mark.parametrize("order_seed", [-1, 2**32])
def test_an_order_seed_out_of_range_is_refused(tmp_path: Path, order_seed: int) -> None:
    with pytest.raises(UsageError, match="order_seed is"):
        config(tmp_path, order_seed=order_seed)


def test_the_codec_follows_from_the_classes_if_none_is_chosen(tmp_path: Path) -> None:
    dump(tmp_path / "few", seeds="0:1")
    many = "tiny_models:noise,length=150,classes=65,size=8"
    dump(
        tmp_path / "many",
        data=many,
        teacher="tiny_models:conv,classes=65,mean=0.5,std=0.25",
        seeds="0:1",
    )
    names = [open_cache(tmp_path / name).manifest.codec.name for name in ("few", "many")]
    assert names == ["full", "lowrank"]


def many_classes(scale: float, length: int = 160) -> dict[str, Any]:
    teacher = f"tiny_models:conv,classes=100,mean=0.5,std=0.25,seed=7,scale={scale}"
    return {
        "data": f"tiny_models:noise,length={length},classes=100,size=8",
        "teacher": teacher,
        "seeds": "0:1",
    }


@pytest.mark.parametrize("scale", [12, 0.3, 0.1])
def test_the_default_is_as_fine_as_the_teachers_logits_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: float
) -> None:
    dump(tmp_path, **many_classes(scale))
    manifest = open_cache(tmp_path).manifest
    assert manifest.codec.configuration == {"error": 0.3, "views": 8192}
    assert 0.25 < max(manifest.gradient_error.values()) <= 0.3
    assert "note: codec" not in capsys.readouterr().err


def test_the_default_is_full_where_the_sample_holds_no_basis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path, **many_classes(1e-5))
    codec = CodecEntry(name="full", configuration={"dtype": "float16"})
    assert open_cache(tmp_path).manifest.codec == codec
    told = capsys.readouterr().err
    assert "note: codec full:dtype=float16 is taken in the place of the usual one: " in told
    assert "lowrank:error=0.3 cannot be met on this sample" in told


def test_the_default_is_chosen_where_a_recipe_draws_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "still.toml"
    recipe.write_text('mode = "L"\nsize = 8\neval = "digits"\ntransforms = []\n')
    dump(tmp_path / "cache", recipe=str(recipe), **many_classes(0.3))
    manifest = open_cache(tmp_path / "cache").manifest
    assert manifest.codec.configuration["error"] == 0.3 and manifest.gradient_error == {}


@pytest.mark.parametrize("codec", ["topk:k=5", "lowrank:step=1", "full:dtype=uint8", None])
def test_without_a_codec_a_dump_goes_on_with_that_of_the_cache(
    tmp_path: Path, codec: str | None
) -> None:
    settings = {**many_classes(0.3)}
    dump(tmp_path, codec=codec, **settings)
    before = open_cache(tmp_path).manifest
    assert dump(tmp_path, **{**settings, "seeds": "0:2"})["units_written"] > 0
    assert open_cache(tmp_path).manifest == before
    plan = plan_dump(
        DumpConfig(
            cache=str(tmp_path), recipe="digits", compute=IN_PROCESS, **{**settings, "seeds": "0:2"}
        )
    )
    assert (
        plan["units_done"] == plan["units"]
        and plan["gradient_error"] == before.made_by.gradient_error
    )
    with pytest.raises(MismatchError, match="data has 10 classes, the cache was made from 100"):
        dump(tmp_path)


@pytest.mark.parametrize(
    ("codec", "told"), [("lowrank:step=2", True), ("lowrank:step=0.125", False), ("topk:k=3", True)]
)
def test_a_codec_that_turns_the_gradient_far_is_told_of_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str, told: bool
) -> None:
    dump(tmp_path, codec=codec, **many_classes(0.3))
    line = f"note: codec {codec_spec(open_cache(tmp_path).codec)} turns DIST's gradient by "
    assert (line in capsys.readouterr().err) is told
