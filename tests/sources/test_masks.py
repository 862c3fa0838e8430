import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_files import Shapes, write_cityscapes, write_pair, write_voc

from kdcache.config.spec import Spec
from kdcache.errors import KdcacheError, SourceError, UnreadableSampleError, UsageError
from kdcache.sources import MaskSource, open_source
from kdcache.targets import task_of


def classes_of(target: Any) -> "np.ndarray":
    assert isinstance(target, Image.Image) and target.mode == "L"
    return np.asarray(target)


def test_cityscapes_ids_become_its_19_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cityscapes(tmp_path)
    spec = f"torchvision:Cityscapes,root={tmp_path},split=train,mode=fine"
    source = open_source(spec)
    assert (task_of(source), source.classes, len(source)) == ("segmentation", 19, 5)
    assert source.class_names[:2] == ("road", "sidewalk") and source.class_names[-1] == "bicycle"
    keys = [source.key(index) for index in range(5)]
    assert (
        keys == sorted(keys)
        and keys[0] == "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    )
    found = classes_of(source.sample(3).target).reshape(-1)[:34]
    assert found[[7, 8, 11, 26, 33]].tolist() == [
        0,
        1,
        2,
        13,
        18,
    ], "road, sidewalk, building, car, bicycle"
    assert found[[0, 1, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]].tolist() == [255] * 12, (
        "what is not evaluated is ignored"
    )

    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path), reverse=True))
    again = open_source(spec)
    assert again.fingerprint == source.fingerprint, "whatever order the file system has"
    assert again.sample(0).image.tobytes() == source.sample(0).image.tobytes()


def test_voc_masks_are_palette_images(tmp_path: Path) -> None:
    source = open_source(
        f"torchvision:VOCSegmentation,root={write_voc(tmp_path)},year=2012,image_set=train"
    )
    assert (source.classes, source.class_names[20], len(source)) == (21, "tvmonitor", 3)
    assert np.unique(classes_of(source.sample(0).target)).tolist() == [0, 1, 20, 255]


def test_classes_that_nobody_named_are_told(tmp_path: Path) -> None:
    (tmp_path / "names.txt").touch()
    with pytest.raises(UsageError, match=r"needs classes, .*; write segfolder:PATH,classes=19"):
        open_source("segfolder")
    with pytest.raises(UsageError, match="is an empty file; write a class on each line"):
        open_source(f"segfolder:{tmp_path},classes={tmp_path}/names.txt")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_of_a_pair_the_file_that_cannot_be_decoded_is_named(tmp_path: Path, content: bytes) -> None:
    for name in "ab":
        write_pair(tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}.png", [[0, 1]] * 2)
    source = open_source(f"segfolder:{tmp_path},classes=2")
    mask = tmp_path / "masks/b.png"
    mask.write_bytes(content)
    for contents in (None, ((tmp_path / "images/b.jpg").read_bytes(), content)):
        with pytest.raises(UnreadableSampleError, match=f"cannot be read: its mask {mask}: "):
            source.sample(1, contents)
    assert source.sample(0).target is not None


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    for name, level in (("a/one", 0), ("a/two", 1), ("b/one", 2)):
        write_pair(
            tmp_path / "photos" / f"{name}.png",
            tmp_path / "labels" / f"{name}_ids.png",
            [[level, 7], [9, 255]],
        )
    (tmp_path / "names.txt").write_text("sky\nroad\n\ncar\n")
    (tmp_path / "ids.csv").write_text("0,0\n1,1\n2,2\n7,\n9,1\n")
    files = f"classes={tmp_path}/names.txt,ids={tmp_path}/ids.csv"
    spec = f"segfolder:{tmp_path},images=photos/{{}}.png,masks=labels/{{}}_ids.png,{files}"
    source = open_source(spec)
    assert (task_of(source), source.classes, source.class_names) == (
        "segmentation",
        3,
        ("sky", "road", "car"),
    )
    assert [source.key(index) for index in range(3)] == [
        "photos/a/one.png",
        "photos/a/two.png",
        "photos/b/one.png",
    ]
    assert classes_of(source.sample(2).target).tolist() == [[2, 255], [1, 255]]
    moved = tmp_path / "moved"
    for folder in ("photos", "labels"):
        (moved / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).rename(moved / folder)
    assert (
        open_source(spec.replace(f"segfolder:{tmp_path}", f"segfolder:{moved}")).fingerprint
        == source.fingerprint
    )


def test_an_own_data_set_says_that_it_has_masks() -> None:
    source = open_source("segmentation_files:Shapes")
    assert (task_of(source), source.classes, source.key(1)) == ("segmentation", 4, "00000001")
    assert set(np.unique(classes_of(source.sample(0).target))) <= {0, 1, 2, 3, 255}
    assert source.fingerprint == open_source("segmentation_files:Shapes,length=12").fingerprint
    assert source.fingerprint != open_source("segmentation_files:Shapes,length=11").fingerprint


class One:
    """A data set of one sample."""

    def __init__(self, mask: Any, size: tuple[int, int] = (4, 3)) -> None:
        self.images = ["one.png"]
        self._sample = Image.new("RGB", size), mask

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self._sample


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 3), np.uint8), r"sample 0 \(one.png\) of s has a mask of 3x4 pixels and an image of 4x3; both must"),
        (np.full((3, 4), 5), r"has a mask with id 5, which is no class: known are 0 to 2, and 255 where .*\(ids\)"),
        (np.array([[-1, 300, 0, 255]] * 3), "has a mask with ids -1, 300, which are no classes"),
        (np.zeros((3, 4, 3), np.uint8), r"has an array uint8 \[3, 4, 3\] from 0 to 0 as its mask; a mask holds integers \[h"),
        (np.zeros((3, 4), np.float32), "has an array float32 .* as its mask; .*; make it uint8"),
        (np.zeros((3, 4), bool), "has an array bool .* as its mask; .*; make it uint8"),
        (torch.zeros(3, 4, dtype=torch.bool), "has a tensor bool .* as its mask; .*; make it uint8"),
        (None, "has None as its mask"),
        ("masks/one.png", "has str 'masks/one.png' as its mask"),
        (Image.new("RGB", (4, 3)), "has a mask of mode RGB; it must hold one id per pixel, not colours"),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_told(mask: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        MaskSource(One(mask), Spec("s"), classes=3).sample(0)


def test_wrong_sets_of_masks_are_told(tmp_path: Path) -> None:
    write_pair(tmp_path / "images" / "a.jpg", tmp_path / "masks" / "a.png", [[0, 1]])
    assert len(open_source(f"segfolder:{tmp_path},classes=2")) == 1
    (tmp_path / "masks" / "b.png").write_text("no image")
    with pytest.raises(
        SourceError, match=r"mask masks/b.png has no image images/b.jpg; add it, or remove the mask"
    ):
        open_source(f"segfolder:{tmp_path},classes=2")
    (tmp_path / "images" / "b.jpg").write_text("no image")
    with pytest.raises(UnreadableSampleError, match=r"sample 1 \(images/b.jpg\) .* cannot be read"):
        open_source(f"segfolder:{tmp_path},classes=2").sample(1)
    (tmp_path / "images" / "c.jpg").write_text("")
    (tmp_path / "ids.csv").write_text("0,0\n1,7\n")
    for options, error, message in (
        ("classes=2", SourceError, "images/c.jpg has no mask .*masks/c.png; add it"),
        (
            "classes=2,images={}.bmp",
            SourceError,
            r"holds no \{\}.bmp; say how its images are called",
        ),
        ("classes=2,masks=masks/a.png", UsageError, "masks=masks/a.png must hold {} once"),
        ("classes=none.txt", UsageError, "classes=none.txt is neither a number nor a text file"),
        ("", UsageError, "needs classes"),
    ):
        with pytest.raises(error, match=message):
            open_source(f"segfolder:{tmp_path},{options}".rstrip(","))
    (tmp_path / "images" / "c.jpg").unlink()
    for options, message in (
        ("classes=1", "has 1 classes; masks hold 2"),
        ("classes=256", "has 256 classes"),
        (
            f"classes=2,ids={tmp_path}/ids.csv",
            r"ids.csv, line 2: '1,7' is not ID,CLASS: .* from 0 to 1, or 255, void or nothing",
        ),
    ):
        with pytest.raises(KdcacheError, match=message):
            open_source(f"segfolder:{tmp_path},{options}")
    with pytest.raises(
        UsageError, match="target_type is 'color'; masks of classes are target_type=semantic"
    ):
        open_source("torchvision:Cityscapes,target_type=color")
    with pytest.raises(
        SourceError, match='if it is a mask, give the data set an attribute task = "segmentation"'
    ):
        open_source("segmentation_files:unsaid").sample(0)


def test_shapes_say_their_classes() -> None:
    """What other tests rest on: the picture tells the mask."""
    image, mask = Shapes()[3]
    red = np.asarray(image)[:, :, 0] // 40
    assert (
        np.array_equal(np.where(red == 4, 255, red), np.asarray(mask)) and len(np.unique(red)) == 5
    )


def street(root: Path, ids: str, *, names: str = "3") -> str:
    """Write photographs whose masks hold ids 0, 11 and 30, and a file of ids; return their spec."""
    write_pair(root / "images" / "a.jpg", root / "masks" / "a.png", [[0, 11], [30, 255]])
    (root / "ids.csv").write_text(ids, "utf-8")
    (root / "names.txt").write_text("sky\nroad\ncar\n", "utf-8")
    return f"segfolder:{root},classes={root / 'names.txt' if names == 'names' else names},ids={root}/ids.csv"


@pytest.mark.parametrize("void", ["", "255", "void", "Ignore", " none "])
@pytest.mark.parametrize("heading", ["", "id,class\n", "\ufeffId, Name\r\n"])
def test_an_id_without_a_class_is_said_in_any_word(tmp_path: Path, void: str, heading: str) -> None:
    source = open_source(street(tmp_path, f"{heading}0,0\n11,{void}\n30,2\n"))
    assert classes_of(source.sample(0).target).tolist() == [[0, 255], [2, 255]]


def test_classes_of_ids_are_given_by_name_too(tmp_path: Path) -> None:
    source = open_source(street(tmp_path, "0,sky\n11,car\n30,1\n", names="names"))
    assert classes_of(source.sample(0).target).tolist() == [[0, 2], [1, 255]]
    (tmp_path / "names.txt").write_text("sky\nvoid\ncar\n", "utf-8")
    (tmp_path / "ids.csv").write_text("0,sky\n11,void\n30,car\n", "utf-8")
    names = f"segfolder:{tmp_path},classes={tmp_path}/names.txt,ids={tmp_path}/ids.csv"
    assert classes_of(open_source(names).sample(0).target).tolist() == [
        [0, 1],
        [2, 255],
    ], "a class of that name comes first"


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ("0,0\n11,1\n0,2\n", "3", r"segfolder: ids = .*ids.csv has '0' twice, in lines 1 and 3; keep one"),
        ("0,0\n00,1\n", "3", "has '0' twice, in lines 1 and 2"),
        ("0,0\n11,sky\n", "3", r"line 2: '11,sky' is not ID,CLASS: an id from 0 to 65535 and a class from 0 to 2, or 255"),
        ("0,0\n11,bus\n", "names", r"line 2: '11,bus' is not ID,CLASS: .* a class from 0 to 2, or its name, or 255"),
        ("0,0\n-1,255\n", "3", "line 2: '-1,255' is not ID,CLASS"),
        ("-1,255\n0,0\n", "3", "line 1: '-1,255' is not ID,CLASS"),
        ("0;0\n", "3", "line 1: '0;0' is not ID,CLASS"),
        ("0,0,0\n", "3", "line 1: '0,0,0' is not ID,CLASS"),
        ("70000,0\n", "3", "line 1: '70000,0' is not ID,CLASS"),
        ("0,3\n", "3", "line 1: '0,3' is not ID,CLASS"),
    ],
)  # fmt: skip
def test_ids_that_cannot_be_meant_are_told(
    tmp_path: Path, ids: str, names: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_source(street(tmp_path, ids, names=names))
    assert len(str(caught.value)) < 500


def test_an_id_of_no_class_says_what_to_write(tmp_path: Path) -> None:
    spec = street(tmp_path, "0,0\n30,1\n")
    known = (
        r"has a mask with id 11, which is no class: known are 0, 30, and 255 where there is none"
    )
    with pytest.raises(
        SourceError,
        match=rf"{known}; add a line for every id to {tmp_path}/ids.csv: `11,CLASS`, or `11,255`",
    ):
        open_source(spec).sample(0)
    with pytest.raises(
        SourceError,
        match=r"ids 11, 30, which are no classes: .* a line ID,CLASS for every id: `11,255` is of",
    ):
        open_source(spec.partition(",ids")[0]).sample(0)


def test_names_of_classes_come_once(tmp_path: Path) -> None:
    spec = street(tmp_path, "0,0\n", names="names")
    (tmp_path / "names.txt").write_bytes("\ufeffsky\r\nroad\r\nsky\r\n".encode())
    with pytest.raises(
        UsageError,
        match=r"segfolder: classes = .*names.txt has 'sky' twice, in lines 1 and 3; keep one",
    ):
        open_source(spec)
    (tmp_path / "names.txt").write_bytes("himmel\nstraße\nauto\n".encode("latin-1"))
    with pytest.raises(
        UsageError, match=r"names.txt is no UTF-8 text: it looks like Windows-1252 .*0xdf in line 2"
    ):
        open_source(spec)
