"""The commands on caches of detectors, of both stores: what a pyramid of logits and boxes in tars ask
of them."""

from pathlib import Path

import numpy as np
import pytest
from box_caches import DATA, TEACHER, box_cache, box_settings, trained
from command_line import invoke, kdcache, kdcache_json
from nursery import started, storage
from PIL import Image
from runs import dump, losses
from s3_server import BUCKET, environ, environment, s3_server
from tiny_detectors import COLOURS

from kdcache import recode_cache
from kdcache.cache import open_cache
from kdcache.cache.source import CachedSource
from kdcache.cache.source_check import require_source
from kdcache.errors import MismatchError, UsageError
from kdcache.sources import open_source

STORES = {
    "shards": {"seeds": "0:2", "unit_rows": 8},
    "tars": {"seeds": "0:2", "unit_rows": 8, "store": "webdataset", "seeds_per_unit": 1},
}
ROWS = list(range(16))
RECIPE = """
size = 64

[[transforms]]
name = "RandomHorizontalFlip"

[[transforms]]
name = "kdcache.Letterbox"
size = "input"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a recipe that takes no time."""
    file = tmp_path_factory.mktemp("recipe") / "boxes.toml"
    file.write_text(RECIPE)
    return str(file)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, changes in STORES.items():
        box_cache(folder / name, recipe, **changes)
    return folder


@pytest.fixture(params=STORES)
def cache(request: pytest.FixtureRequest, shelf: Path) -> Path:
    return shelf / str(request.param)


def records(path: Path | str, seed: int) -> bytes:
    return open_cache(path).read(seed, ROWS).tobytes()


def test_parts_are_merged(cache: Path, tmp_path: Path) -> None:
    for number in range(2):
        kdcache("export", cache, tmp_path / str(number), "--seeds", f"{number}:{number + 1}")
    kdcache("merge", tmp_path / "merged", tmp_path / "0", tmp_path / "1")
    merged = open_cache(tmp_path / "merged")
    assert merged.manifest == open_cache(cache).manifest
    assert storage(tmp_path / "merged") == storage(cache)


def test_the_other_store_has_the_same_records_and_boxes(shelf: Path, tmp_path: Path) -> None:
    words = ("--store", "webdataset", "--data", DATA)
    kdcache("convert", shelf / "shards", tmp_path / "tars", *words)
    kdcache("convert", shelf / "tars", tmp_path / "shards", "--store", "zarr")
    for seed in (0, 1):
        expected = records(shelf / "shards", seed)
        for path in (shelf / "tars", tmp_path / "tars", tmp_path / "shards"):
            assert records(path, seed) == expected
    for path in (shelf / "tars", tmp_path / "tars"):
        made = open_cache(path)
        source = CachedSource(made)
        source.units.fetch(made.commit_of(0, 0))
        index = int(made.order[0])
        objects = source.sample(index).target
        assert len(objects) == index % 4


def test_another_codec(cache: Path, tmp_path: Path) -> None:
    kdcache("recode", cache, tmp_path / "new", "--codec", "full:dtype=uint8")
    made = open_cache(tmp_path / "new")
    before = open_cache(cache)
    assert made.manifest.layout == before.manifest.layout
    logits = before.codec.decode(before.read(1, ROWS)).logits()
    difference = made.codec.decode(made.read(1, ROWS)).logits() - logits
    bound = made.codec.stated_error(logits)
    assert 0 < difference.abs().max() <= bound.max()


def test_checks_find_nothing(cache: Path) -> None:
    words = ("--views", 8, "--data", DATA, "--teacher", TEACHER, "--device", "cpu", "--workers", 0)
    report = kdcache_json("verify", cache, *words)
    assert report["faults"] == []
    assert report["views"]["checked"] == report["teacher"]["views"] == 8
    assert report["teacher"]["beyond"] == 0


def test_a_view_is_shown(cache: Path, tmp_path: Path) -> None:
    words = ("show", cache, "--view", "3:1", "--out")
    data = ()
    if cache.name == "shards":
        data = ("--data", DATA)
    result = kdcache_json(*words, tmp_path / "view.png", *data)
    made = open_cache(cache)
    logits = made.codec.decode(made.read(1, [result["row"]])).logits()
    assert result["confidence"] == pytest.approx(float(logits.sigmoid().max()))
    picture = np.asarray(Image.open(tmp_path / "view.png").convert("RGB"))
    assert picture.shape[1] > 1000
    # sample 3 has three red rectangles, which cover a fifteenth of the view
    is_red = np.abs(picture.astype(int) - COLOURS[0]).max(-1) < 3
    assert is_red.sum() > 20_000


@pytest.mark.parametrize("name", ["ssd", "faster_rcnn"])
def test_the_background_is_no_class_of_a_picture(tmp_path: Path, recipe: str, name: str) -> None:
    teacher = f"tiny_detectors:{name},mean=0.5,std=0.25"
    box_cache(tmp_path / name, recipe, teacher=teacher, seeds="0:1")
    words = ("--view", "3:0", "--data", DATA, "--out", tmp_path / "view.png")
    result = kdcache_json("show", tmp_path / name, *words)
    made = open_cache(tmp_path / name)
    (segment, *_) = made.codec.decode(made.read(0, [result["row"]])).segments
    probabilities = segment.logits().softmax(-1)[:, 1:]
    assert result["confidence"] >= float(probabilities.max()) - 1e-6
    assert (tmp_path / "view.png").stat().st_size > 10_000


def test_several_teachers_are_refused(shelf: Path, tmp_path: Path) -> None:
    words = ("train-student", tmp_path / "run", "--data", DATA, "--student", TEACHER)
    caches = ("--cache", shelf / "shards", "--cache", shelf / "tars")
    refused = invoke(*words, *caches, "--device", "cpu", "--workers", 0)
    assert refused.exit_code == 2
    assert "which the scores of detectors are not; take one teacher" in refused.output


def test_workers_that_dump_at_once_make_the_cache_of_one(
    shelf: Path, tmp_path: Path, recipe: str
) -> None:
    settings = box_settings(recipe, **STORES["shards"])
    workers = []
    for rank in range(2):
        place = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(rank)}
        workers.append(started(tmp_path / "cache", place, **settings))
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert storage(tmp_path / "cache") == storage(shelf / "shards")


def test_a_bucket_is_dumped_to_and_trained_from(shelf: Path, tmp_path: Path, recipe: str) -> None:
    with s3_server() as port, environ(**environment(port)):
        bucket = f"s3://{BUCKET}/boxes"
        box_cache(bucket, recipe, **STORES["tars"])
        assert records(bucket, 1) == records(shelf / "tars", 1)
        settings = {"data": None, "epochs": 1, "window": 2}
        trained(tmp_path / "bucket", cache=(bucket,), **settings)
    trained(tmp_path / "folder", cache=(str(shelf / "tars"),), **settings)
    assert losses(tmp_path / "bucket") == losses(tmp_path / "folder")
    assert len(losses(tmp_path / "bucket")) == 2


def test_a_detector_of_other_classes_is_no_teacher(tmp_path: Path, recipe: str) -> None:
    many = TEACHER.replace("retinanet,", "retinanet,classes=5,")
    settings = box_settings(recipe, teacher=many, teacher_classes=5)
    with pytest.raises(UsageError, match=r"has 5 classes, data .* 3: the scores of a detector are"):
        dump(tmp_path / "cache", **settings)
    assert not (tmp_path / "cache").exists()


# no body of these has norms, and only an SSD of torchvision's has none either
@pytest.mark.parametrize(
    ("kind", "rate"), [("retinanet", "0.01"), ("ssd", "0.0005"), ("faster_rcnn", "0.01")]
)
def test_the_command_after_a_dump_has_a_learning_rate_of_such_detectors(
    tmp_path: Path, recipe: str, kind: str, rate: str
) -> None:
    teacher = TEACHER.replace("retinanet", kind)
    words = dump(tmp_path / "cache", **box_settings(recipe, teacher=teacher))["next"].split()
    assert words[words.index("--lr") + 1] == rate


def test_data_of_another_task_are_told(shelf: Path, tmp_path: Path) -> None:
    words = ["train-student", tmp_path / "run", "--cache", shelf / "shards", "--loss", "dist"]
    done = invoke(*words, "--student", TEACHER, "--data", "digits:train")
    assert done.exit_code == 1
    assert "is for detection, data digits:train for classification; give the data" in done.stderr
    with pytest.raises(MismatchError, match="data is for segmentation, the cache for detection"):
        require_source(
            open_cache(shelf / "shards"), open_source("segmentation_files:Shapes,length=48")
        )


def test_info_says_nothing_of_anchors_that_are_one_at_a_place(tmp_path: Path, recipe: str) -> None:
    teacher = TEACHER.replace("retinanet", "fcos")
    box_cache(tmp_path / "cache", recipe, teacher=teacher)
    assert "activation sigmoid\n" in kdcache("info", tmp_path / "cache")


def test_what_a_recoding_took_is_not_counted_for_each_seed_of_a_tar(
    tmp_path: Path, recipe: str
) -> None:
    box_cache(tmp_path / "two", recipe, store="webdataset", seeds="0:2", seeds_per_unit=2)
    before = recode_cache(tmp_path / "two", tmp_path / "new", codec="full:dtype=uint8")["before"]
    told = kdcache_json("info", tmp_path / "two")
    assert before["bytes"] == told["bytes"]
    assert before["bytes_per_view"] == told["bytes_per_view"]
