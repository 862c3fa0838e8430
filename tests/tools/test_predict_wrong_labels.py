"""Images are predicted whatever their labels are: what is wrong of these is not looked at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_caches import TEACHER
from box_files import coco_content, voc_object, write_coco, write_voc_boxes, write_yolo
from command_line import kdcache_json, mistake
from PIL import Image
from segmentation_files import write_pair

PLACE = ("--workers", "0", "--device", "cpu")
MAPS = "tiny_models:strongest,mean=0,std=1"
CANVAS = 'size = 64\n[[transforms]]\nname = "kdcache.Letterbox"\nsize = "input"\nfill = 114\n'


def voc(root: Path) -> str:
    one = voc_object("cat", (1, 2, 9, 8))
    return f"voc:{write_voc_boxes(root, {'a': one, 'b': one})}"


def yolo(root: Path) -> str:
    return f"yolo:{write_yolo(root, {'a': '0 .5 .5 .2 .2', 'b': '2 .5 .5 .2 .2'})},classes=3"


def coco(root: Path) -> str:
    return write_coco(root)


def torchvision_voc(root: Path) -> str:
    one = voc_object("cat", (1, 2, 9, 8))
    write_voc_boxes(root / "VOCdevkit" / "VOC2012", {"a": one, "b": one}, split="train")
    return f"torchvision:VOCDetection,root={root}"


def rewritten(root: Path, **changes: Any) -> None:
    (root / "boxes.json").write_text(json.dumps(coco_content(**changes)))


def an_entry(**entry: Any) -> Callable[[Path], object]:
    """Return what makes an annotation of this the only one of COCO's file."""
    return lambda root: rewritten(root, annotations=[entry])


BOX = {"image_id": 40, "category_id": 90, "bbox": [0, 0, 2, 2]}


@pytest.mark.parametrize(
    ("write", "spoil"),
    [
        (voc, lambda root: (root / "Annotations/a.xml").write_text("<annotation><obj")),
        (voc, lambda root: (root / "Annotations/a.xml").write_bytes(b"\xff\xfe\xff")),
        (voc, lambda root: (root / "Annotations/a.xml").unlink()),
        (
            torchvision_voc,
            lambda root: (root / "VOCdevkit/VOC2012/Annotations/a.xml").write_text("<annotation>"),
        ),
        (yolo, lambda root: (root / "labels/train/a.txt").write_text("7 .5 .5 .2 .2")),
        (yolo, lambda root: [path.unlink() for path in root.glob("labels/train/*")]),
        (coco, an_entry(image_id=40, category_id=90)),
        (coco, an_entry(**{**BOX, "bbox": [0, 0, "x", 2]})),
        (coco, an_entry(**{**BOX, "bbox": [0, 0, float("nan"), 2]})),
        (coco, an_entry(**{**BOX, "image_id": 41})),
        (coco, an_entry(**{**BOX, "category_id": 4})),
        (coco, lambda root: rewritten(root, annotations=None)),
    ],
)
def test_boxes_are_the_same_whatever_the_annotations_say(
    tmp_path: Path, write: Callable[[Path], str], spoil: Callable[[Path], object]
) -> None:
    (tmp_path / "canvas.toml").write_text(CANVAS)
    data = write(tmp_path / "data")
    words = ("predict", TEACHER, "--data", data, "--recipe", tmp_path / "canvas.toml", *PLACE)
    expected = kdcache_json(*words, "-o", tmp_path / "whole.csv")
    spoil(tmp_path / "data")
    evaluation = ("evaluate", TEACHER, "--data", data, "--recipe", tmp_path / "canvas.toml")
    assert mistake(*evaluation, *PLACE), "who looks at labels is told"
    found = kdcache_json(*words, "-o", tmp_path / "spoilt.csv")
    assert found["boxes"] == expected["boxes"] > 0 == found["unreadable"]
    assert (tmp_path / "spoilt.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_results_have_the_ids_of_a_file_without_annotations(tmp_path: Path) -> None:
    """As the one of COCO's test images is."""
    (tmp_path / "canvas.toml").write_text(CANVAS)
    content = coco_content()
    del content["annotations"]
    content["categories"].append({"id": 7, "name": "owl"})
    data = write_coco(tmp_path, content)
    words = ("--recipe", tmp_path / "canvas.toml", "-o", tmp_path / "found.json")
    assert kdcache_json("predict", TEACHER, "--data", data, *words, *PLACE)["images"] == 3
    results = json.loads((tmp_path / "found.json").read_text())
    assert {result["image_id"] for result in results} <= {7, 11, 40}
    assert {result["category_id"] for result in results} <= {3, 7, 90}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"images": [', "is no JSON"),
        (
            '{"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}',
            "has file_name",
        ),
        (None, "boxes.json"),
    ],
)
def test_a_list_of_images_that_cannot_be_read_names_the_way_out(
    tmp_path: Path, text: str | None, told: str
) -> None:
    (tmp_path / "canvas.toml").write_text(CANVAS)
    data = write_coco(tmp_path)
    file = tmp_path / "boxes.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    words = ("--recipe", tmp_path / "canvas.toml", "-o", tmp_path / "found.csv", *PLACE)
    line = mistake("predict", TEACHER, "--data", data, *words)
    assert told in line
    assert f"or give the folder of images by itself, {tmp_path}/images, which needs" in line
    line = mistake("evaluate", TEACHER, "--data", data, *PLACE)
    assert told in line and "by itself" not in line
    words = ("--task", "detection", *words)
    folder = kdcache_json("predict", TEACHER, "--data", tmp_path / "images", *words)
    assert folder["images"] == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: (root / "masks/a.png").unlink(),
        lambda root: (root / "masks/a.png").write_bytes(b"no image"),
        lambda root: [path.unlink() for path in root.glob("masks/*")] + [(root / "masks").rmdir()],
        lambda root: Image.new("L", (3, 3)).save(root / "masks/a.png"),
    ],
)
def test_maps_are_the_same_whatever_masks_there_are(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    root = tmp_path / "data"
    for number, name in enumerate("ab"):
        ids = np.full((12, 16), number)
        write_pair(root / f"images/{name}.jpg", root / f"masks/{name}.png", ids)
    words = ("predict", MAPS, "--data", f"segfolder:{root},classes=3", *PLACE)
    expected = kdcache_json(*words, "-o", tmp_path / "whole")
    spoil(root)
    found = kdcache_json(*words, "-o", tmp_path / "spoilt")
    assert found["maps"] == expected["maps"] == 2 and not found["unreadable"]
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.png")]
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "spoilt" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_that_the_patterns_leave_out_is_told_without_masks_too(tmp_path: Path) -> None:
    write_pair(tmp_path / "images/a.jpg", tmp_path / "masks/a.png", [[0, 1]])
    Image.new("RGB", (4, 4)).save(tmp_path / "images/b.png")
    words = ("--data", f"segfolder:{tmp_path},classes=3", "-o", tmp_path / "maps", *PLACE)
    assert "images/b.png would be left out" in mistake("predict", MAPS, *words)
