"""Images and boxes in the layout of YOLO."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from box_files import noise, write_yolo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.errors import SourceError, UsageError
from kdcache.sources import open_source
from kdcache.sources.yolo import _rows_of
from kdcache.targets.objects import ObjectBoxes

BOXES = "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.2 0.4\n"


def objects_of(source: Any, index: int) -> ObjectBoxes:
    target = source.sample(index).target
    assert isinstance(target, ObjectBoxes)
    return target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "set", {"b/two": BOXES, "c": "", "a": None})


def test_shares_become_pixels(root: Path, tmp_path: Path) -> None:
    source: Any = open_source(f"yolo:{root},classes=2")
    assert (source.task, source.classes, source.class_names) == ("detection", 2, None)
    assert list(source.keys()) == [f"images/train/{name}.png" for name in ("a", "b/two", "c")]
    assert [len(objects_of(source, index)) for index in range(3)] == [0, 2, 0]
    two = objects_of(source, 1)
    torch.testing.assert_close(two.boxes, torch.tensor([[7.5, 2.5, 12.5, 7.5], [0, 0, 4, 4]]))
    torch.testing.assert_close(two.areas, torch.tensor([25.0, 16]))
    assert two.classes.tolist() == [1, 0] and not two.is_crowd.any()
    (tmp_path / "names.txt").write_text("cup\nbowl\n")
    named: Any = open_source(f"yolo:{root},classes={tmp_path}/names.txt")
    assert named.class_names == ("cup", "bowl") and named.fingerprint == source.fingerprint


def test_the_fingerprint_covers_boxes(root: Path) -> None:
    before = open_source(f"yolo:{root},classes=2").fingerprint
    assert open_source(f"yolo:{root},classes=3").fingerprint != before
    write_yolo(root, {"b/two": BOXES.replace("0.25", "0.26")})
    changed = open_source(f"yolo:{root},classes=2").fingerprint
    assert changed != before
    write_yolo(root, {"c": BOXES})
    assert open_source(f"yolo:{root},classes=2").fingerprint not in (before, changed)


def test_a_split_is_a_folder(root: Path) -> None:
    write_yolo(root, {"x": BOXES}, split="val")
    assert list(open_source(f"yolo:{root},classes=2,split=val").keys()) == ["images/val/x.png"]
    with pytest.raises(UsageError, match=r"unknown split of yolo .*; did you mean 'val'\?"):
        open_source(f"yolo:{root},classes=2,split=vla")
    with pytest.raises(UsageError, match=r"unknown split of yolo .* '\.\./x'"):
        open_source(f"yolo:{root},classes=2,split=../x")


shares = st.floats(0, 1)
lines = st.lists(st.tuples(st.integers(0, 4), shares, shares, shares, shares), max_size=5)


@settings(deadline=None, max_examples=50)
@given(lines)
def test_boxes_are_read_as_they_were_written(tmp_path_factory: Any, parts: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "a.txt").write_text("\n".join(" ".join(map(str, part)) for part in parts))
    rows = _rows_of(str(folder), 5, "a.txt")
    assert rows["class"].tolist() == [part[0] for part in parts]
    for row, (_, x, y, width, height) in zip(rows, parts, strict=True):
        left, upper, right, lower = row["box"].tolist()
        found = ((left + right) / 2, (upper + lower) / 2, right - left, lower - upper)
        assert found == pytest.approx((x, y, width, height), abs=1e-6)
        assert row["area"] == pytest.approx(width * height, abs=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "has 9 numbers, as outlines and keypoints have; boxes have 5: class, x and y"),
        ("0 0.5 0.5 0.5", "is '0 0.5 0.5 0.5'; it must be class, x and y of the centre, width, height"),
        ("cat 0.5 0.5 0.5 0.5", "is 'cat 0.5 0.5 0.5 0.5'; it must be class"),
        ("0,0.5,0.5,0.5,0.5", "is '0,0.5,0.5,0.5,0.5'; it must be class"),
        ("2 0.5 0.5 0.5 0.5", "of class 2; known are 0 to 1: give the right classes=, or mend the line"),
        ("-1 0.5 0.5 0.5 0.5", "of class -1; known"),
        ("0.5 0.5 0.5 0.5 0.5", "of class 0.5; known"),
        ("nan 0.5 0.5 0.5 0.5", "of class nan; known"),
        ("0 12 5 4 4", "is '0 12 5 4 4'; centre, width and height must be shares of the image from 0 to 1, not pixels"),
        ("0 0.5 0.5 nan 0.5", "must be shares"),
        ("0 0.5 0.5 -0.5 0.5", "must be shares"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_told(root: Path, line: str, message: str) -> None:
    write_yolo(root, {"c": f"0 0.5 0.5 0.5 0.5\n{line}\n"})
    with pytest.raises(SourceError) as caught:
        open_source(f"yolo:{root},classes=2")
    assert re.search(
        f"^yolo: labels {root}/labels/train/c.txt, line 2 .*{message}", str(caught.value)
    )


def test_files_beside_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("labels/train/classes.txt", "labels/train/gone.txt", "images/train/notes.md"):
        (root / name).touch()
    assert len(open_source(f"yolo:{root},classes=2")) == 3
    told = (
        f"yolo {root}: 3 files passed over that are no images and no labels of one (.txt 2, .md 1)"
    )
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d.heic", r"images/train/d.heic would be left out: yolo takes .jpg .*; convert it to PNG"),
        ("._a.png", r"images/train/._a.png is hidden, as editors and systems leave files; remove"),
    ],
)
def test_an_image_that_would_be_left_out_is_told(root: Path, name: str, message: str) -> None:
    (root / "images" / "train" / name).touch()
    with pytest.raises(SourceError, match=message):
        open_source(f"yolo:{root},classes=2")


def test_an_image_that_is_turned_by_viewers_is_refused(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(20, 10).save(root / "images" / "train" / "c.png", exif=exif)
    with pytest.raises(SourceError, match=r"c.png is to be turned .* \(EXIF orientation 6\)"):
        open_source(f"yolo:{root},classes=2").sample(2)


def test_what_is_not_there_is_told(root: Path, tmp_path: Path) -> None:
    spec = f"yolo:{root},classes=2"
    for folder in ("none", "empty/images/train"):
        (tmp_path / folder).mkdir(parents=True)
    for arg, message in (
        (f"{tmp_path}/none", r"is no folder with images in it; give one with images/train/\*.jpg"),
        (f"{tmp_path}/empty", r"images/train holds no image \(.jpg .*\); put some there"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(f"yolo:{arg},classes=2")
    (root / "labels").rename(root / "Labels")
    with pytest.raises(
        SourceError,
        match=r"none of 3 images has labels; those of 'images/train/a.png' would be 'labels/train/",
    ):
        open_source(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"needs classes, the number of them or a file .*; write yolo:/d,classes=80"),
        (",classes=0", "yolo: classes=0 must be at least 1"),
        (",classes=data.yaml", "is YAML, which kdcache does not read; write its names into a text"),
        (",classes=x.txt", "yolo: classes=x.txt is neither a number nor a text file with a name"),
        (",classes=2,splt=val", "unknown source yolo key 'splt'; did you mean 'split'"),
    ],
)
def test_options_that_are_wrong_are_told(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(f"yolo:/d{options}")
