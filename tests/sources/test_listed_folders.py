"""What a command writes does not come to lie among the data that a source lists."""

from pathlib import Path

import pytest
from box_files import write_yolo
from command_line import kdcache_json, mistake
from image_files import write_images, write_shards

from kdcache.errors import KdcacheError, UsageError
from kdcache.sources import open_source, require_outside

MODEL = ("--teacher", "tiny_models:conv,channels=3,classes=2", "--device", "cpu", "--workers", 0)
AMONG = "whose files are data: it would be taken for some of them; choose a folder elsewhere"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", {"a/1.png": 1, "b/2.png": 2})


@pytest.mark.parametrize("inner", ["cache", "a/cache", "a/b/c"])
def test_a_cache_or_run_in_the_folder_of_its_images_is_refused_at_the_start(
    inner: str, photos: Path
) -> None:
    before = sorted(photos.rglob("*"))
    out = photos / inner
    for data in (photos, f"imagefolder:{photos}", f"imagefolder:{photos},fold=0/2"):
        words = ("--data", data, "--recipe", "cifar")
        assert AMONG in mistake("dump-teacher", out, *words, *MODEL)
    student = ("--student", "tiny_models:conv,channels=3", "--loss", "ce", "--epochs", 1)
    assert AMONG in mistake("train-student", out, *words, *student)
    words = ("--data", "digits", "--recipe", "digits", "--eval-data", photos)
    assert AMONG in mistake("train-student", out, *words, *student)
    assert sorted(photos.rglob("*")) == before


def test_a_link_does_not_hide_where_a_folder_lies(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    for out, data in {"link/cache": photos, "photos/cache": tmp_path / "link"}.items():
        with pytest.raises(UsageError, match="choose a folder elsewhere"):
            require_outside(tmp_path / out, "cache", f"imagefolder:{data}")


def test_folders_beside_the_data_and_hidden_ones_are_no_data(photos: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", 4)
    for data, out in {
        f"imagefolder:{photos}": tmp_path / "photos-cache",
        f"imagefolder:{photos},fold=0/2": photos / ".cache" / "r50",
        f"tars:{tmp_path}/tars": tmp_path / "tars" / "cache",
        f"yolo:{write_yolo(tmp_path / 'yolo', {'a': None})},classes=2": tmp_path / "yolo" / "cache",
        "digits": tmp_path,
        "tiny_models:noise": tmp_path,
    }.items():
        require_outside(out, "cache", data)
    require_outside("s3://bucket/photos", "cache", f"imagefolder:{photos}")
    require_outside(photos / "cache", "cache", None)


def test_data_that_cannot_be_opened_are_told_when_they_are(photos: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    for data in (str(missing), f"imagefolder:{missing}", f"imagefolder:{photos},fold=2/2"):
        require_outside(photos / "cache", "cache", data)
        with pytest.raises(KdcacheError):
            open_source(data)


def test_images_and_masks_or_labels_are_listed_apart(tmp_path: Path) -> None:
    yolo = write_yolo(tmp_path / "yolo", {"a": None})
    for inner in ("images/train/cache", "labels/train/cache"):
        with pytest.raises(UsageError, match="choose a folder elsewhere"):
            require_outside(yolo / inner, "cache", f"yolo:{yolo},classes=2")
    pairs = write_images(tmp_path / "pairs", {"images/a.jpg": 1, "masks/a.png": 1})
    spec = f"segfolder:{pairs},classes=2"
    for inner in ("images/run", "masks"):
        with pytest.raises(UsageError, match="choose a folder elsewhere"):
            require_outside(pairs / inner, "run", spec)
    require_outside(pairs / "run", "run", spec)


def test_what_was_begun_there_goes_on(photos: Path, tmp_path: Path) -> None:
    teacher = ("--teacher", "tiny_models:conv,classes=2", *MODEL[2:])
    words = ("--data", photos, "--recipe", "digits", *teacher)
    kdcache_json("dump-teacher", tmp_path / "cache", *words)
    (tmp_path / "cache").rename(photos / "a" / "cache")
    assert len(open_source(f"imagefolder:{photos}")) == 2
    result = kdcache_json("dump-teacher", photos / "a" / "cache", *words, "--seeds", "0:2")
    assert result["units_written"] == 1
