"""Images and boxes in the layout of Pascal VOC."""

import re
from pathlib import Path
from typing import Any

import pytest
from box_files import voc_object, write_voc_boxes
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import KdcacheError, SourceError, UsageError
from kdcache.sources import annotation_files, open_source
from kdcache.sources.voc import VOC_CLASSES, VocReader
from kdcache.targets.objects import ObjectBoxes

CAT = voc_object("cat", (3, 2, 10, 6))
HARD_DOG = voc_object("dog", (1, 1, 20, 10), "<difficult>1</difficult>")
PERSON = voc_object(
    "person",
    (5, 5, 8.5, 9),
    "<difficult>0</difficult><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>",
)


def objects_of(source: Any, index: int) -> ObjectBoxes:
    target = source.sample(index).target
    assert isinstance(target, ObjectBoxes)
    return target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc_boxes(tmp_path / "VOC2012", {"b": CAT + HARD_DOG, "c": "", "a": PERSON})


def test_boxes_begin_at_pixel_one_and_hold_their_last_pixel(root: Path) -> None:
    source: Any = open_source(f"voc:{root}")
    assert (source.task, source.classes, source.class_names) == ("detection", 20, VOC_CLASSES)
    assert list(source.keys()) == [f"JPEGImages/{name}.jpg" for name in "abc"]
    cat_and_dog = objects_of(source, 1)
    assert cat_and_dog.boxes.tolist() == [[2, 1, 10, 6], [0, 0, 20, 10]]
    assert cat_and_dog.classes.tolist() == [VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")]
    assert cat_and_dog.areas.tolist() == [40, 200]
    assert cat_and_dog.is_crowd.tolist() == [False, True], "difficult objects are ignored"
    assert objects_of(source, 0).boxes.tolist() == [[4, 4, 8.5, 9]], "its head is no object"
    assert len(objects_of(source, 2)) == 0
    kept: Any = open_source(f"voc:{root},difficult=keep")
    assert objects_of(kept, 1).is_crowd.tolist() == [False, False]
    assert kept.fingerprint != source.fingerprint


def test_a_split_is_a_list(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    (lists / "val.txt").write_text("c\r\n\r\n")
    (lists / "cat_val.txt").write_text("c  1\n")
    assert list(open_source(f"voc:{root},split=val").keys()) == ["JPEGImages/c.jpg"]
    with pytest.raises(
        UsageError, match=r"unknown split of voc .* 'vall'; did you mean 'val'\? \(known: trainval"
    ):
        open_source(f"voc:{root},split=vall")
    with pytest.raises(SourceError, match=r"cat_val.txt, line 1 is 'c 1'; it must be the name of"):
        open_source(f"voc:{root},split=cat_val")
    (lists / "train_few.txt").write_text("a\n")
    assert len(open_source(f"voc:{root},split=train_few")) == 1, "though train is a class"


def test_own_names(tmp_path: Path) -> None:
    root = write_voc_boxes(tmp_path, {"a": voc_object("Big Cat", (1, 1, 2, 2))})
    (tmp_path / "names.txt").write_text("dragon\nBig Cat\n")
    source: Any = open_source(f"voc:{root},classes={tmp_path}/names.txt")
    assert source.class_names == ("dragon", "Big Cat")
    assert objects_of(source, 0).classes.tolist() == [1]
    with pytest.raises(UsageError, match=r"^voc: classes=20 is no text file with a name on each"):
        open_source(f"voc:{root},classes=20")


def test_torchvisions_spec_is_read_too(tmp_path: Path) -> None:
    root = write_voc_boxes(
        tmp_path / "VOCdevkit" / "VOC2007", {"b": CAT, "a": HARD_DOG}, split="train"
    )
    source: Any = open_source(f"torchvision:VOCDetection,root={tmp_path},year=2007,image_set=train")
    assert source.key(0) == "VOCdevkit/VOC2007/JPEGImages/a.jpg"
    plain: Any = open_source(f"voc:{root},split=train")
    for index in range(2):
        first, second = objects_of(source, index), objects_of(plain, index)
        assert first.boxes.tolist() == second.boxes.tolist()
        assert first.is_crowd.tolist() == second.is_crowd.tolist()


def _upright(box: tuple[int, ...]) -> tuple[int, ...]:
    left, upper, right, lower = box
    return min(left, right), min(upper, lower), max(left, right), max(upper, lower)


sides = st.integers(1, 500)
objects = st.lists(st.tuples(st.sampled_from(VOC_CLASSES), st.tuples(*[sides] * 4)), max_size=5)


@settings(deadline=None, max_examples=50)
@given(objects)
def test_boxes_are_read_as_they_were_written(tmp_path_factory: Any, parts: list[Any]) -> None:
    parts = [(name, _upright(box)) for name, box in parts]
    path = tmp_path_factory.mktemp("voc") / "a.xml"
    text = "".join(voc_object(name, box) for name, box in parts)
    path.write_text(f"<annotation>{text}</annotation>")
    rows = VocReader(VOC_CLASSES, ignores_difficult=True).read(str(path)).rows
    assert [VOC_CLASSES[index] for index in rows["class"]] == [name for name, _ in parts]
    wanted = [[left - 1, upper - 1, right, lower] for _, (left, upper, right, lower) in parts]
    assert rows["box"].tolist() == wanted


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "ha">' + "".join(
        f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 9)
    )
    + "]><annotation>&b8;</annotation>"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_object("dragon", (1, 1, 2, 2)), r"object 1 is 'dragon', which is none of 20 classes, 'aeroplane, .*'; give all names, a line each: classes=FILE"),
        ("<object><name/></object>", "object 1 is '', which is none"),
        (CAT + "<object><name>cat</name></object>", "object 2 has xmin None; a bndbox must have numbers xmin, ymin, xmax, ymax"),
        (voc_object("cat", (1, 1, float("nan"), 2)), "object 1 has xmax 'nan'; a bndbox must"),
        (voc_object("cat", (9, 1, 3, 2)), "object 1 has xmin 9, ymin 1, xmax 3, ymax 2; xmax must not be below xmin"),
        (voc_object("cat", (1, 9, 3, 2)), "object 1 has xmin 1, ymin 9, xmax 3, ymax 2; xmax must not be below xmin, nor ymax"),
        ("<object>", "is no XML: mismatched tag: line 1"),
    ],
)  # fmt: skip
def test_an_object_that_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    root = write_voc_boxes(tmp_path, {"a": CAT, "b": text})
    with pytest.raises(
        SourceError, match=f"^voc: annotation {root}/Annotations/b.xml(:| is) ?"
    ) as e:
        open_source(f"voc:{root}")
    assert re.search(message, str(e.value)) and len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BOMB.encode(), "has a DOCTYPE, which none needs; remove it"),
        (BOMB.encode("utf-16"), "has a DOCTYPE"),
        (b"", "is no XML: no element found"),
        (b"<html></html>", "is XML of 'html'; VOC's begins with <annotation>"),
        (b"\x89PNG\0", "is no UTF-8 text: it is a PNG image"),
    ],
)
def test_a_file_that_is_no_annotation_is_told(root: Path, data: bytes, message: str) -> None:
    (root / "Annotations" / "b.xml").write_bytes(data)
    with pytest.raises(KdcacheError, match=f"^voc: annotation {root}/Annotations/b.xml {message}"):
        open_source(f"voc:{root}")


def test_a_file_may_have_so_many_bytes(root: Path) -> None:
    file = root / "Annotations" / "b.xml"
    file.write_text("<annotation>" + " " * annotation_files.MOST_BYTES + "</annotation>")
    with pytest.raises(SourceError, match=r"b.xml has .*; it may have .*: leave out"):
        open_source(f"voc:{root}")


def test_what_is_not_there_is_told(root: Path, tmp_path: Path) -> None:
    lists = root / "ImageSets" / "Main" / "trainval.txt"
    for text, message in (
        ("a 1\n", r"trainval.txt, line 1 is 'a 1'; it must be the name of an image"),
        ("\n", "trainval.txt is empty; write the name of an image on each line"),
        ("a\n../b\n", r"line 2 is '../b'; it must be a path below the folder of images"),
        ("a\nx\n", "image 'JPEGImages/x.jpg' has no 'Annotations/x.xml'; add it, or take the"),
    ):
        lists.write_text(text)
        with pytest.raises(SourceError, match=message):
            open_source(f"voc:{root}")
    lists.write_text("a\nb\n")
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(
        SourceError, match=r"image 'JPEGImages/b.jpg' is not there; add it, or take"
    ):
        open_source(f"voc:{root}")
    for arg, message in (
        ("", r"^voc None is not a folder; give one with JPEGImages, Annotations and ImageSets"),
        (f":{tmp_path}/x", "is not a folder"),
        (f":{tmp_path}", f"holds sets of several years; give one: voc:{root}$"),
        (f":{root}/JPEGImages", r"holds no ImageSets/Main; give a folder with JPEGImages/\*.jpg"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(f"voc{arg}")
    with pytest.raises(UsageError, match=r"difficult .*'no'.*known: ignore, keep"):
        open_source(f"voc:{root},difficult=no")


def _size(width: object, height: object) -> str:
    return f"<size><width>{width}</width><height>{height}</height></size>"


def test_an_annotation_of_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    for name, size in {
        "right": _size(20, 10),
        "none": _size(0, 0),
        "words": _size("", "x"),
    }.items():
        source: Any = open_source(f"voc:{write_voc_boxes(tmp_path / name, {'a': CAT + size})}")
        assert len(objects_of(source, 0)) == 1
    plain: Any = open_source(f"voc:{write_voc_boxes(tmp_path / 'plain', {'a': CAT})}")
    assert plain.fingerprint == source.fingerprint, "that of caches from before sizes were read"
    root = write_voc_boxes(tmp_path / "other", {"a": CAT + _size(40, 20)})
    wrong: Any = open_source(f"voc:{root}")
    with pytest.raises(SourceError, match=r"a.jpg has 20x10 pixels, and .*a.xml says 40x20: its"):
        wrong.sample(0)


def test_sizes_that_alone_are_wrong_can_be_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = voc_object("cat", (30, 5, 60, 9))
    objects = {"a": CAT + _size(40, 20), "b": large + _size(90, 20), "c": large + _size(20, 10)}
    root = write_voc_boxes(tmp_path, objects)
    for index, hint in enumerate(("give the source coco or voc sizes=ignore",) * 2):
        with pytest.raises(SourceError, match=hint):
            open_source(f"voc:{root}").sample(index)
    capsys.readouterr()
    source: Any = open_source(f"voc:{root},sizes=ignore")
    assert capsys.readouterr().err == "", "what the files say of sizes is not believed"
    plain: Any = open_source(f"voc:{root}")
    assert source.fingerprint == plain.fingerprint, "a cache fits both"
    assert len(objects_of(source, 0)) == 1
    for index in (1, 2):
        with pytest.raises(SourceError, match=r"20x10 pixels, and a box in .* reaches to 60, 9"):
            source.sample(index)


def test_many_boxes_beyond_their_images_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = voc_object("cat", (30, 5, 60, 9)) + _size(20, 10)
    open_source(f"voc:{write_voc_boxes(tmp_path / 'large', {'a': CAT, 'b': large})}")
    told = capsys.readouterr().err
    assert "1 of 2 boxes reach beyond their images, and are cut there" in told
    assert "the first reaches to 60, 9 in JPEGImages/b.jpg of 20x10 pixels" in told
    many = {"b": large} | {f"c{number}": CAT + _size(20, 10) for number in range(9)}
    open_source(f"voc:{write_voc_boxes(tmp_path / 'few', many)}")
    assert capsys.readouterr().err == "", "a tenth may be"
