"""Images with the boxes of a file of COCO's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_files import coco_content, write_coco, write_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import age

from kdcache.errors import KdcacheError, SourceError, UsageError
from kdcache.sources import BoxSource, coco, coco_file, open_source
from kdcache.sources.coco_file import read_coco
from kdcache.targets import task_of
from kdcache.targets.objects import ObjectBoxes


def objects_of(source: Any, index: int) -> ObjectBoxes:
    target = source.sample(index).target
    assert isinstance(target, ObjectBoxes)
    return target


def test_categories_become_classes_and_images_come_by_name(tmp_path: Path) -> None:
    source = open_source(write_coco(tmp_path))
    assert isinstance(source, BoxSource)
    assert (task_of(source), source.classes, source.class_names) == ("detection", 2, ("cat", "dog"))
    assert list(source.keys()) == ["a.png", "b/two.png", "c.png"]
    assert len(objects_of(source, 0)) == 0, "an image without an annotation is kept"
    two = objects_of(source, 1)
    assert two.boxes.tolist() == [[1, 2, 4.5, 6], [15, 5, 20, 7]], "within the image, none empty"
    assert two.classes.tolist() == [1, 0] and two.classes.dtype == torch.int64
    assert two.areas.tolist() == [9, 20], "of the whole box where the file says none"
    assert two.is_crowd.tolist() == [True, False]
    assert objects_of(source, 2).classes.tolist() == [0]
    assert source.known_targets() is None


def test_the_fingerprint_covers_boxes_and_not_the_order_of_the_file(tmp_path: Path) -> None:
    content = coco_content()
    before = open_source(write_coco(tmp_path / "a", content)).fingerprint
    turned = coco_content(
        images=content["images"][::-1],
        categories=content["categories"][::-1],
        info={},
    )
    assert open_source(write_coco(tmp_path / "b", turned)).fingerprint == before
    for key, value in (("bbox", [1, 2, 3.25, 4]), ("area", 8), ("iscrowd", 0), ("category_id", 3)):
        changed = coco_content()
        changed["annotations"][0][key] = value
        assert open_source(write_coco(tmp_path / "c", changed)).fingerprint != before, key
    elsewhere = coco_content()
    elsewhere["annotations"][1]["image_id"] = 7
    assert open_source(write_coco(tmp_path / "d", elsewhere)).fingerprint != before


numbers = st.floats(-1e6, 1e6, width=32)
annotations = st.lists(
    st.tuples(st.sampled_from([40, 7, 11]), st.sampled_from([3, 90]), st.tuples(*[numbers] * 4))
)


@settings(deadline=None, max_examples=50)
@given(annotations)
def test_boxes_are_read_as_they_were_written(tmp_path_factory: Any, parts: list[Any]) -> None:
    root = tmp_path_factory.mktemp("coco")
    written = []
    for image, category, (left, upper, width, height) in parts:
        bbox = [left, upper, width, height]
        written.append({"image_id": image, "category_id": category, "bbox": bbox, "area": 5})
    (root / "f.json").write_text(json.dumps(coco_content(annotations=written)))
    objects = read_coco(str(root / "f.json")).objects
    for place, image in enumerate((7, 40, 11)):
        wanted = [part for part in parts if part[0] == image]
        found = objects.of(place)
        assert found.classes.tolist() == [[3, 90].index(part[1]) for part in wanted]
        boxes = np.array([part[2] for part in wanted], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert found.boxes.tolist() == boxes.astype(np.float32).tolist()
        assert found.areas.tolist() == [5] * len(wanted)


def test_an_image_of_another_size_has_not_these_boxes(tmp_path: Path) -> None:
    spec = write_coco(tmp_path)
    write_noise(tmp_path / "images/a.png", 6, 8)
    with pytest.raises(
        SourceError, match=r"a.png has 6x8 pixels, and .*boxes.json says 8x6: its boxes are of"
    ):
        open_source(spec).sample(0)
    assert len(objects_of(open_source(f"{spec},sizes=ignore"), 0)) == 0


def without(key: str) -> dict[str, Any]:
    content = coco_content()
    del content[key]
    return content


def annotated(**changes: Any) -> dict[str, Any]:
    annotation = {"image_id": 40, "category_id": 3, "bbox": [0, 0, 1, 1]} | changes
    return coco_content(annotations=[annotation])


def pictured(*images: Any) -> dict[str, Any]:
    return coco_content(images=list(images), annotations=[])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 40, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}], "is a list, as a detector's results are; give the inst"),
        (7, "is 7, without a list of images; an instances file has images, annotations and categories"),
        (without("images"), r"is a dict with 'info', 'categories', 'annotations', without a list of images"),
        (without("annotations"), "without a list of annotations"),
        (coco_content(categories={"3": "cat"}), "without a list of categories"),
        (pictured(), "lists no images; give an instances file with some"),
        (coco_content(categories=[], annotations=[]), "lists no categories; give"),
        (pictured("a.png"), r"images\[0\] is str 'a.png'; it must have an id"),
        (pictured({"id": "7", "file_name": "a.png"}), r"images\[0\] has id '7'; it must be a whole number below 2\^63"),
        (pictured({"id": 2**70, "file_name": "a.png"}), r"images\[0\] has id 1180591620717411303424; it must"),
        (pictured({"id": 7}), r"images\[0\] has file_name None; it must be a text"),
        (pictured({"id": 7, "file_name": "a\0.png"}), r"has file_name 'a\\x00.png'; it must be a text"),
        (pictured({"id": 7, "file_name": "\ud800"}), "has file_name '.ud800'; it must be a text"),
        (pictured({"id": 7, "file_name": "../a.png"}), r"file_name is '../a.png'; it must be a path below the folder of images"),
        (pictured({"id": 7, "file_name": "/etc/passwd"}), "file_name is '/etc/passwd'; it must be a path"),
        (pictured({"id": 7, "file_name": "."}), "file_name is '.'; it must be a path"),
        (pictured({"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "c.png"}), "images 0 and 1 have one id, 7; keep one, or give each its own"),
        (pictured({"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "./a.png"}), "images 0 and 1 have one file_name, 'a.png'; keep"),
        (coco_content(categories=[{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]), "categories 0 and 1 have one id, 3; keep"),
        (coco_content(categories=[{"id": 3, "name": "cat"}, {"id": 90, "name": "cat"}]), "has 2 classes of one name, 'cat'; give each its own"),
        (coco_content(categories=[{"id": 3}]), r"categories\[0\] has name None; it must be a text"),
        (annotated(image_id=41), r"annotations\[0\] has image_id 41, which is none of the 3 that it lists; remove it, or list that image too"),
        (annotated(category_id=1), r"annotations\[0\] has category_id 1, which is none of the 2 that it lists; remove it, or list that category too"),
        (coco_content(annotations=[{"image_id": 40, "caption": "A cat."}]), r"annotations\[0\] has no category_id; give an instances file"),
        (coco_content(annotations=[{"image_id": 40, "category_id": 3}]), r"annotations\[0\] has no bbox; give an instances file, which has boxes"),
        (coco_content(annotations=[[1, 2, 3, 4]]), r"annotations\[0\] is a list of 4 \(.*\); it must have image_id, category_id, bbox"),
        (annotated(bbox=[1, 2, 3]), r"annotations\[0\] has image_id 40, category_id 3, bbox \[1, 2, 3\], area None; ids must be whole numbers, and a bbox"),
        (annotated(bbox=["1", "2", "3", "4"]), "ids must be whole numbers, and a bbox left, upper, width and height"),
        (annotated(image_id="40"), "has image_id '40', .*; ids must be whole numbers"),
        (annotated(area="large"), "area 'large'; ids must"),
        (annotated(bbox=[0, 0, float("nan"), 1]), r"annotations\[0\] has bbox \[0.0, 0.0, nan, 1.0\] and area nan; they must be finite"),
        (annotated(bbox=[0, 0, 1e300, 1]), r"has bbox \[0.0, 0.0, 1e\+300, 1.0\] and area 1e\+300; they must be finite numbers"),
        (coco_content(images=[{"id": 40, "file_name": "gone.png"}], annotations=[]), "image 'gone.png' is not there; give the folder that it is below, add it, or remove it from .*boxes.json"),
        (pictured({"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "x/b.png"}), r"image 'x/a.png' \(and 1 more\) is not there"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told_in_one_line(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(write_coco(tmp_path, content))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON: Expecting value: line 1"),
        (b"image,box\n", "is no JSON: Expecting value: line 1 column 1 .*; give an instances file"),
        (b'{"images": [' + b"[" * 100_000, "is no JSON: "),
        (b'{"images": [' + b"1" * 5_000 + b"]}", "is no JSON: Exceeds the limit"),
        (b"PK\x03\x04\0\0", "is no UTF-8 text: it is a zip archive"),
    ],
)
def test_a_file_that_is_no_json_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    spec = write_coco(tmp_path)
    (tmp_path / "boxes.json").write_bytes(data)
    with pytest.raises(KdcacheError, match=f"^coco: annotations = {tmp_path}/boxes.json {message}"):
        open_source(spec)


def test_a_file_may_have_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write_coco(tmp_path)
    monkeypatch.setattr(coco_file, "MOST_BYTES", 100)
    with pytest.raises(SourceError, match=r"boxes.json has .*; it may have 100 .*: leave out what"):
        open_source(spec)


def test_what_a_spec_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"needs annotations, a JSON file; write coco:IMAGES,annotations=inst"
    ):
        open_source("coco")
    with pytest.raises(SourceError, match=r"^coco '.*x' is not a folder; give the one that holds"):
        open_source(f"coco:{tmp_path}/x,annotations=y.json")
    with pytest.raises(UsageError, match=r"y.json cannot be read: No such file"):
        open_source(f"coco:{tmp_path},annotations={tmp_path}/y.json")
    with pytest.raises(UsageError, match="unknown source coco key 'annotation'; did you mean"):
        open_source(f"coco:{tmp_path},annotation=y.json")


def test_what_a_long_file_says_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "NUM_KEPT", 3)
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    spec = write_coco(tmp_path)
    file = tmp_path / "boxes.json"
    first: Any = open_source(spec)
    assert not list(tmp_path.glob("home/annotations/*")), "it may change within a tick"
    age(file)
    assert open_source(spec).fingerprint == first.fingerprint
    (kept,) = tmp_path.glob("home/annotations/*")

    size = file.stat().st_size
    file.write_text(" " * size)
    age(file)
    again: Any = open_source(spec)
    assert again.fingerprint == first.fingerprint and list(again.keys()) == list(first.keys())
    assert again.class_names == first.class_names
    assert again.annotation_ids == first.annotation_ids == ([7, 40, 11], [3, 90])
    for index in range(3):
        found, wanted = objects_of(again, index), objects_of(first, index)
        assert found.boxes.tolist() == wanted.boxes.tolist()
        assert found.is_crowd.tolist() == wanted.is_crowd.tolist()
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(SourceError, match="is no JSON"):
        open_source(spec)
    changed = coco_content()
    changed["annotations"][0]["bbox"] = [0, 0, 1, 1]
    write_coco(tmp_path, changed)
    assert open_source(spec).fingerprint != first.fingerprint


def test_a_box_of_negative_width_is_refused(tmp_path: Path) -> None:
    content = coco_content(
        annotations=[{"image_id": 40, "category_id": 3, "bbox": [15, 5, -10, 2]}]
    )
    content["annotations"][0]["area"] = 20
    source: Any = open_source(write_coco(tmp_path, content))
    with pytest.raises(
        SourceError, match=r"two.png\) .* has a box of negative width or height: left"
    ):
        source.sample(1)
