import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import contents, fill, flipped, records
from PIL import Image
from runs import CONV, DIGITS, IN_PROCESS, dump, largest_file
from tiny_models import FEW

from kdcache.cache import Cache, open_cache
from kdcache.cache.committing import commit_unit, encode_unit
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.zarr import object_key
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.errors import KdcacheError, MismatchError, ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.runtime.device import ComputeConfig
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache
from kdcache.verify.known_teacher import compute_of
from kdcache.verify.logits import logits_faults
from kdcache.views import Recipe

TEACHER = f"{CONV},seed=7"
SCALED = "tiny_models:scaled,mean=0.5,std=0.25,seed=7"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return fill(tmp_path / "cache", 0, 3)


def test_a_whole_cache_has_no_faults(cache: Cache) -> None:
    size = sum(path.stat().st_size for path in cache.storage.path.glob("seeds/*/records/c/*/0"))
    assert verify_cache(cache) == {
        "cache": str(cache),
        "units": 6,
        "from_report": 0,
        "bytes": size,
        "absent": 0,
        "seeds": [0, 3],
        "complete_seeds": [0, 3],
        "missing": {},
        "seeds_not_begun": [],
        "seeds_in_part": [],
        "units_asked": 6,
        "units_done": 6,
        "is_complete": True,
        "units_per_seed": 3,
        "orphaned": [],
        "foreign": [],
        "temporary": 0,
        "faults": [],
    }


@pytest.mark.parametrize("position", [0, 70, -1])
def test_a_flipped_byte_is_found(cache: Cache, position: int) -> None:
    path = cache.storage.path / object_key(3, 1)
    data = path.read_bytes()
    path.write_bytes(flipped(data, position % len(data), 0x10))
    report = verify_cache(cache)
    (fault,) = report["faults"]
    assert "seed 3, unit 1 (rows 8 to 15)" in fault and "SHA-256" in fault
    assert report["units"] == 6 and report["missing"] == {}, (
        "the other units are checked all the same"
    )


def test_a_deleted_object_is_found(cache: Cache) -> None:
    (cache.storage.path / object_key(0, 2)).unlink()
    (fault,) = verify_cache(cache)["faults"]
    assert "seed 0, unit 2 (rows 16 to 19)" in fault and "is missing" in fault


def test_damaged_and_foreign_commits_are_found(cache: Cache, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", 0, codec="full:dtype=float32")
    path = cache.storage.path
    (path / commit_key(0, 0)).write_bytes(other.storage.get(commit_key(0, 0)))
    (path / commit_key(0, 1)).write_bytes(cache.storage.get(commit_key(0, 2)))
    (path / commit_key(3, 2)).write_bytes(cache.storage.get(commit_key(3, 2))[:-1])
    (path / commit_key(3, 99)).write_bytes(cache.storage.get(commit_key(3, 0)))
    faults = verify_cache(cache)["faults"]
    assert len(faults) == 4
    assert "seed 0, unit 0 " in faults[0] and "were committed" in faults[0]
    assert "seed 0, unit 1 " in faults[1] and "its commit is that of seed 0, unit 2" in faults[1]
    assert "seed 3, unit 2 " in faults[2] and "the commit is damaged" in faults[2]
    assert "seed 3, unit 99 " in faults[3] and "its commit is that of seed 3, unit 0" in faults[3]


def test_missing_units_and_temporary_files_are_told_and_are_no_faults(cache: Cache) -> None:
    (cache.storage.path / commit_key(3, 0)).unlink()
    (cache.storage.path / object_key(3, 0)).with_name(".0.0123456789abcdef.tmp").write_bytes(
        b"half"
    )
    cache.storage.publish(object_key(5, 0), encode_unit(cache, 0, records(cache, 5, 0)))
    report = verify_cache(cache)
    assert report["faults"] == [] and report["missing"] == {3: [0]} and report["temporary"] == 1
    assert (
        report["seeds"] == [0, 3, 5] and report["seeds_not_begun"] == [5] and report["units"] == 5
    )
    assert report["orphaned"] == [object_key(3, 0), object_key(5, 0)] and report["foreign"] == []


def test_a_report_is_gone_on_from(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    first = verify_cache(cache, report=path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 7 and json.loads(lines[0])["manifest"] == cache.manifest.digest
    assert json.loads(lines[4])["commit"] == cache.commit_of(3, 0).digest
    damaged = cache.storage.path / object_key(0, 1)
    damaged.write_bytes(flipped(damaged.read_bytes(), 50, 1))
    path.write_text("".join(lines[:4]) + lines[4][:30])  # killed while it wrote
    again = verify_cache(cache, report=path)
    assert again == {**first, "from_report": 3}, "what the report says is not read again"
    (cache.storage.path / object_key(0, 0)).unlink()
    (fault,) = verify_cache(cache, report=path)["faults"]
    assert "unit 0 " in fault, "but looked for"
    assert len(verify_cache(cache, report=path)["faults"]) == 1, "faults are looked at again"
    commit_unit(cache, 0, 0, records(cache, 0, 0))
    assert verify_cache(cache, report=path)["faults"] == []
    assert len(verify_cache(cache)["faults"]) == 1


def test_a_report_of_another_cache_is_refused(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    verify_cache(fill(tmp_path / "other", 0, rows=12), report=path)
    text = path.read_text()
    with pytest.raises(MismatchError, match="is no report on cache"):
        verify_cache(cache, report=path)
    path.write_text("notes of mine")
    with pytest.raises(MismatchError, match="is no report on cache"):
        verify_cache(cache, report=path)
    assert path.read_text() == "notes of mine" and text
    with pytest.raises(KdcacheError, match="cannot write report"):
        verify_cache(cache, report=tmp_path / "nowhere" / "report")
    with largest_file(10), pytest.raises(KdcacheError, match=r"report .*make room and run again"):
        verify_cache(cache, report=tmp_path / "full")


def test_an_object_that_cannot_be_read_is_a_fault(cache: Cache) -> None:
    path = cache.storage.path / object_key(0, 0)
    path.unlink()
    path.mkdir()
    (fault,) = verify_cache(cache)["faults"]
    assert "cannot read" in fault and object_key(0, 0) in fault


def test_views_are_rendered_again_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "cache", unit_rows=50)
    cache = open_cache(tmp_path / "cache")
    report = verify_cache(cache, views=10, data=DIGITS)
    assert report["faults"] == [] and report["views"] == {"checked": 10, "other_pixels": 0}
    assert "were asked for" not in capsys.readouterr().err
    checked = verify_cache(cache, views=100, data=DIGITS)["views"]["checked"]
    assert (
        f"note: 100 views were asked for, and {checked} can be compared" in capsys.readouterr().err
        and 10 < checked < 100
    )
    with pytest.raises(MismatchError, match=r"digits:test is not what cache .* was made from"):
        verify_cache(cache, views=10, data="digits:test")
    assert verify_cache(cache, views=3, data=f"{DIGITS},length={FEW}")["faults"] == [], (
        "the same data under another spec"
    )


def test_verifying_writes_nothing(cache: Cache) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.storage.path.rglob("*")}
    home = set(Path(os.environ["KDCACHE_HOME"]).rglob("*"))
    verify_cache(cache)
    assert {path: path.stat().st_mtime_ns for path in cache.storage.path.rglob("*")} == before
    assert set(Path(os.environ["KDCACHE_HOME"]).rglob("*")) == home


def test_what_to_add_is_printed_as_a_shell_takes_it(tmp_path: Path) -> None:
    said = {
        "imagefolder:/data/train": (
            "made from imagefolder:/data/train; if that is right, add --data"
            " imagefolder:/data/train"
        ),
        "imagefolder:/my data": "if that is right, add --data 'imagefolder:/my data'",
        "x; rm -rf ~": "if that is right, add --data 'x; rm -rf ~'",
        "a\nb": r"add --data SPEC, of the data that it was made from \('a\\nb', it says\)",
        f"imagefolder:/{'a' * 100}": (
            r"says, 'imagefolder:/a+\.\.\.a+'\); if that is right, add --data"
            r" imagefolder:/a{100}$"
        ),
        "i" * 4000: (
            r"add --data SPEC, of the data that it was made from \('i+\.\.\.i+', it says\)"
        ),
    }
    for number, (spec, message) in enumerate(said.items()):
        made = fill(tmp_path / str(number), 0, source={"spec": spec, "fingerprint": "0"})
        with pytest.raises(UsageError, match=message) as caught:
            verify_cache(made, views=2)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "attack", ["os:mkdir,path={0}/executed", "torchvision:MNIST,root={0}", "imagefolder:{0}/images"]
)
def test_nothing_that_a_cache_says_is_opened(tmp_path: Path, attack: str) -> None:
    legacy = tmp_path / "MNIST" / "processed"
    legacy.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):  # which torchvision unpickles
        (legacy / name).write_bytes(b"cos\nmkdir\n(V" + f"{tmp_path}/executed".encode() + b"\ntR.")
    made = fill(tmp_path / "cache", 0, source={"spec": attack.format(tmp_path), "fingerprint": "0"})
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="holds no images"):
        verify_cache(made, views=2)
    assert not (tmp_path / "executed").exists()


def test_a_lost_array_document_is_a_fault_and_the_next_dump_restores_it(tmp_path: Path) -> None:
    dump(tmp_path / "cache")
    document = tmp_path / "cache" / "seeds" / "00001" / "records" / "zarr.json"
    whole = document.read_bytes()
    document.write_bytes(whole.replace(f"{FEW}".encode(), f"{FEW - 1}".encode()))
    assert (
        f"seed 1: its array has shape ({FEW - 1}, 20)"
        in verify_cache(open_cache(tmp_path / "cache"))["faults"][0]
    )
    document.unlink()
    assert (
        "seed 1: zarr cannot open its array"
        in verify_cache(open_cache(tmp_path / "cache"))["faults"][0]
    )
    assert dump(tmp_path / "cache")["units_written"] == 0
    assert (
        document.read_bytes() == whole
        and verify_cache(open_cache(tmp_path / "cache"))["faults"] == []
    )


@pytest.mark.parametrize("digests", [False, True])
def test_a_damaged_list_of_the_source_is_written_anew_by_the_way_out(
    tmp_path: Path, digests: bool
) -> None:
    settings = {"content_digests": digests, "unit_rows": 64}
    dump(tmp_path / "cache", **settings)
    before = [(name, data) for name, (data, _) in contents(tmp_path / "cache").items()]
    (names,) = (tmp_path / "cache").glob("source/*/names/c/0")
    names.write_bytes(b"")
    (fault,) = verify_cache(tmp_path / "cache")["faults"]
    found = re.search(r"or delete (\S+) and run the dump again", fault)
    assert found, fault
    shutil.rmtree(found[1])
    assert dump(tmp_path / "cache", **settings)["units_written"] == 0
    after = [(name, data) for name, (data, _) in contents(tmp_path / "cache").items()]
    assert after == before and verify_cache(tmp_path / "cache")["faults"] == []


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with every group that there can be."""
    path = tmp_path_factory.mktemp("grouped") / "cache"
    dump(path, codec="lowrank:step=0.5", unit_rows=64)
    return path


@pytest.mark.parametrize("group", ["seeds", "seeds/00001", "codec", "source"])
def test_a_damaged_group_is_a_fault_and_the_way_out_mends_it(
    grouped: Path, tmp_path: Path, group: str
) -> None:
    shutil.copytree(grouped, tmp_path / "cache")
    document = tmp_path / "cache" / group / "zarr.json"
    whole = document.read_bytes()
    document.write_bytes(whole.replace(b"group", b"grouq"))
    (fault,) = verify_cache(tmp_path / "cache")["faults"]
    assert f"{group}/zarr.json is damaged" in fault and f"delete {document}: arrays" in fault
    document.unlink()
    assert verify_cache(tmp_path / "cache")["faults"] == []


MANY = 128
"""Digits of a cache whose records are compared: enough of them that some are near a boundary."""


def dumped(path: Path, **changes: Any) -> Cache:
    dump(path, **{"data": f"{DIGITS},length={MANY}", "unit_rows": 32, **changes})
    return open_cache(path)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Cache]:
    """Return what dumps a cache with a codec, once for all tests, which only read it."""

    @functools.cache
    def made(codec: str = "full:dtype=float16", teacher: str = TEACHER) -> Cache:
        return dumped(tmp_path_factory.mktemp("shelf") / "cache", codec=codec, teacher=teacher)

    return made


def rerun(
    cache: Cache, teacher: str = TEACHER, precision: str | None = None, **settings: Any
) -> dict[str, Any]:
    changes = {"precision": precision} if precision else {}
    compute = compute_of(cache, workers=0, device="cpu", **changes)
    named = {"data": cache.manifest.source.spec, **settings}
    return verify_cache(cache, teacher=teacher, compute=compute, **named)


@pytest.mark.parametrize(
    "codec", ["full:dtype=float32", "full:dtype=uint8", "topk:k=3", "lowrank:step=0.5"]
)
def test_the_teacher_of_the_dump_gives_the_records(shelf: Callable[..., Cache], codec: str) -> None:
    report = rerun(shelf(codec))
    found = report["teacher"]
    assert report["faults"] == [] and report["views"] == {"checked": 64, "other_pixels": 0}
    assert found["beyond"] == 0 and found["precision"] == "float32"
    assert found["views"] == found["equal_records"] == 64
    assert found["largest_difference"] == found["median_difference"] == 0


@pytest.mark.parametrize(("views", "run"), [(1, 1), (7, 7), (100, 100), (100_000, 2 * MANY)])
def test_as_many_views_are_run_again_as_are_asked_for_and_there(
    shelf: Callable[..., Cache], views: int, run: int
) -> None:
    report = rerun(shelf(), views=views, batch_size=33)
    assert report["teacher"]["views"] == run and report["teacher"]["largest_difference"] < 0.01
    assert report["views"]["checked"] == min(views, 2 * MANY // 32 * 8), "eight of a unit"


def test_a_batch_size_may_be_tried(
    shelf: Callable[..., Cache], capsys: pytest.CaptureFixture[str]
) -> None:
    report = rerun(shelf(), views=5, batch_size="auto")
    assert report["teacher"]["views"] == 5 and report["faults"] == []
    assert re.search(r"note: batch_size auto is [124] here: ", capsys.readouterr().err)
    with pytest.raises(UsageError, match="'fast'; it must be a whole number or 'auto'"):
        rerun(shelf(), batch_size="fast")


@pytest.mark.parametrize(
    "codec", ["full:dtype=float32", "full:dtype=uint8", "topk:k=3", "topk:k=7", "lowrank:step=0.05"]
)
def test_rounding_in_another_precision_is_no_fault(shelf: Callable[..., Cache], codec: str) -> None:
    report = rerun(shelf(codec), precision="bfloat16", views=200)
    found = report["teacher"]
    assert report["faults"] == [] and found["precision"] == "bfloat16"
    assert (
        found["equal_records"] < 150
        and found["beyond"] < 5
        and 0 < found["median_difference"] < 0.1
    )
    assert found["largest_difference"] < 0.5, (
        "two classes that change places in a topk record are not far apart"
    )


def test_the_teacher_runs_in_the_precision_of_the_dump(tmp_path: Path) -> None:
    made: dict[str, Any] = {
        "data": DIGITS,
        "teacher": TEACHER,
        "recipe": "digits",
        "codec": "full:dtype=float32",
    }
    compute = ComputeConfig(workers=0, device="cpu", precision="bfloat16")
    run_dump(DumpConfig(cache=str(tmp_path / "cache"), compute=compute, **made))
    cache = open_cache(tmp_path / "cache")
    assert verify_cache(cache, teacher=TEACHER, data=DIGITS)["teacher"]["precision"] == "bfloat16"
    assert (
        rerun(cache)["teacher"]["largest_difference"]
        < 1e-2
        < rerun(cache, precision="float32")["teacher"]["median_difference"]
    )


@pytest.mark.parametrize(
    ("teacher", "what"),
    [
        (f"{CONV},seed=8", "hash of weights is"),
        ("tiny_models:conv,mean=0.4,std=0.25,seed=7", r"mean is \[0.4\], not \[0.5\]"),
    ],
)
def test_another_teacher_is_a_fault(shelf: Callable[..., Cache], teacher: str, what: str) -> None:
    report = rerun(shelf(), teacher)
    (fault,) = report["faults"]
    assert re.search(
        f"teacher {teacher} is not the one that cache .* was made with .*: its {what}", fault
    )
    assert "teacher" not in report and "views" not in report


@pytest.mark.parametrize(
    "codec", ["full:dtype=float16", "full:dtype=uint4", "topk:k=3", "lowrank:step=0.5"]
)
def test_the_same_weights_with_other_logits_are_a_fault(
    shelf: Callable[..., Cache], codec: str
) -> None:
    cache = shelf(codec)
    report = rerun(cache, f"{SCALED},factor=1.5")
    (fault,) = report["faults"]
    assert f"teacher {SCALED},factor=1.5 has the weights that cache {cache} was made with" in fault
    assert re.search(
        r"in \d\d of 64 views they differ by more .* ran in float32, at the dump in float32; .* the"
        r" same; ",
        fault,
    )
    assert report["teacher"]["beyond"] > 32 and report["teacher"]["median_difference"] > 0.1
    assert rerun(cache, f"{SCALED},factor=1")["faults"] == []


@pytest.mark.parametrize("first", [-3, 3])
def test_one_class_that_moved_is_seen_whatever_the_mean_of_a_row_that_lowrank_drops(
    shelf: Callable[..., Cache], first: int
) -> None:
    cache = shelf("lowrank:step=0.5", f"{SCALED},offset=50")
    assert rerun(cache, f"{SCALED},offset=70")["faults"] == []
    assert len(rerun(cache, f"{SCALED},offset=50,first={first}")["faults"]) == 1


def test_it_takes_half_of_the_views_to_make_a_fault(shelf: Callable[..., Cache]) -> None:
    cache = shelf()
    recipe = cache.recipe
    model = open_model(TEACHER, classes=10, recipe=recipe)
    found = {"views": 64, "median_difference": 1.0, "precision": "float32"}
    assert logits_faults(cache, model, {**found, "beyond": 31}) == []
    assert len(logits_faults(cache, model, {**found, "beyond": 32})) == 1


def test_logits_that_are_not_finite_are_a_fault(shelf: Callable[..., Cache]) -> None:
    (fault,) = rerun(shelf(), f"{SCALED},factor=1e300")["faults"]
    assert "NaN or infinite logits" in fault


def test_views_that_are_others_are_told_before_the_teacher_runs(tmp_path: Path) -> None:
    cache = pictures(tmp_path)
    for path in (tmp_path / "images").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    report = rerun(cache, f"{CONV},classes=3")
    assert (
        "pixels first differ after decoding the image" in report["faults"][0]
        and "teacher" not in report
    )


def pictures(path: Path, *broken: int, count: int = 24, **changes: Any) -> Cache:
    """Return a cache of 24 pictures, or so many, some of them broken."""
    for index in range(count):
        file = path / "images" / f"class{index % 3}" / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)).save(
            file
        )
        if index in broken:
            file.write_bytes(b"not an image")
    return dumped(
        path / "cache",
        data=f"imagefolder:{path}/images",
        teacher=f"{CONV},classes=3",
        unit_rows=8,
        **changes,
    )


def test_absent_rows_and_missing_units_are_left_out(tmp_path: Path) -> None:
    cache = pictures(tmp_path, 3, 17, skip_unreadable=True)
    absent = len(cache.commit_of(0, 1).absent)
    (cache.storage.path / commit_key(0, 1)).unlink()
    report = rerun(cache, f"{CONV},classes=3")
    assert report["faults"] == [] and report["missing"] == {0: [1]}
    assert report["teacher"]["views"] == report["teacher"]["equal_records"] == 2 * 22 - (8 - absent)


def test_a_picture_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    cache = pictures(tmp_path, count=60)
    probed = {probe.row for commit in cache.commits(0) for probe in commit.probes}
    row = next(row for row in range(60) if row not in probed)
    path = sorted((tmp_path / "images").rglob("*.png"))[int(cache.order[row])]
    path.write_bytes(b"?" * path.stat().st_size)
    (fault,) = rerun(cache, f"{CONV},classes=3", views=1000)["faults"]
    assert path.name in fault and "cannot be read" in fault and "was read at" not in fault


def test_a_cache_without_records_cannot_be_compared(tmp_path: Path) -> None:
    cache = pictures(tmp_path)
    for seed in (0, 1):
        for unit in range(3):
            (cache.storage.path / commit_key(seed, unit)).unlink()
    (fault,) = rerun(cache, f"{CONV},classes=3", data=f"imagefolder:{tmp_path}/images")["faults"]
    assert "holds no record to compare with the teacher's logits; dump a seed first" in fault


def test_recoded_records_are_compared_if_they_came_from_exact_ones(
    shelf: Callable[..., Cache], tmp_path: Path
) -> None:
    recode_cache(shelf().storage.path, tmp_path / "small", codec="full:dtype=uint8")
    recode_cache(tmp_path / "small", tmp_path / "smaller", codec="topk:k=2")
    report = rerun(open_cache(tmp_path / "small"))
    assert report["faults"] == [] and report["teacher"]["views"] == 64
    with pytest.raises(
        MismatchError,
        match=r"was recoded from full:dtype=uint8, .* verify the cache that it came from",
    ):
        rerun(open_cache(tmp_path / "smaller"))


def test_a_teacher_that_cannot_be_opened_is_no_fault_of_the_cache(
    cache: Cache, shelf: Callable[..., Cache]
) -> None:
    made = shelf()
    with pytest.raises(UsageError, match="did you mean 'conv'"):
        rerun(made, "tiny_models:cnov")
    with pytest.raises(ModelError, match="gives 7 classes, and 10 are asked for"):
        rerun(made, f"{CONV},classes=7")
    with pytest.raises(UsageError, match="was made from noise; if that is right, add --data noise"):
        rerun(cache, data=None)


def test_the_teacher_that_a_manifest_names_is_never_opened(
    tmp_path: Path, shelf: Callable[..., Cache]
) -> None:
    evil = {
        "spec": f"os:mkdir,path={tmp_path}/executed",
        "sha256": "0",
        "size": 8,
        "mean": [0.5],
        "std": [0.25],
    }
    whole = shelf().manifest.source
    source = {"spec": whole.spec, "fingerprint": whole.fingerprint}
    table = {"mode": "L", "size": 8, "eval": "eval", "transforms": []}
    recipe = Recipe("none", table).to_dict()
    teacher = {**evil, "precision": "float32"}
    fields = {"classes": 10, "source": source, "recipe": recipe, "teacher": teacher}
    sizes = {"rows": MANY, "unit_rows": MANY, "chunk_rows": MANY}
    made = fill(tmp_path / "cache", 0, **fields, **sizes)
    (fault,) = rerun(made)["faults"]
    assert "is not the one that cache" in fault and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"views": -1}, "views is -1; it must be at least 0"),
        ({"views": 0, "teacher": TEACHER}, "views is 0; it must be at least 1 to run a teacher on"),
        (
            {"data": "digits:train"},
            "data digits:train is opened to render views, and none are asked for; give --views",
        ),
        (
            {"views": 5, "batch_size": 3},
            "--device and --precision say how a teacher runs; give --teacher SPEC too",
        ),
        (
            {"compute": IN_PROCESS},
            "--device and --precision say how a teacher runs; give --teacher SPEC too",
        ),
        ({"teacher": TEACHER, "batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    cache: Cache, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        verify_cache(cache, **settings)
