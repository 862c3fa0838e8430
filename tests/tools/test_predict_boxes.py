"""The boxes that a saved detector finds, in a table or in COCO's results."""

import csv
import json
import re
from pathlib import Path

import faster_coco_eval
import numpy as np
import pytest
import torch
from box_caches import STUDENT, TEACHER
from command_line import invoke, kdcache, kdcache_json, mistake
from pyarrow import parquet
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_detectors import Rectangles, write_coco_of_rectangles

from kdcache.models.model import open_model
from kdcache.shapes import Detections
from kdcache.sources import as_source
from kdcache.views import ViewDataset, load_recipe

PLACE = ("--workers", "0", "--device", "cpu")
SIDES = ("x0", "y0", "x1", "y1")
WORDS = ("--task", "detection", *PLACE)
BY_COLOUR = "tiny_detectors:by_colour,mean=0,std=1"
LARGE = (96, 128)
"""Height and width of images that a canvas of 64 pixels halves."""


@pytest.fixture(scope="module")
def canvas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "canvas.toml"
    file.write_text(
        'size = 64\n[[transforms]]\nname = "kdcache.Letterbox"\nsize = "input"\nfill = 114\n'
    )
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(6):
        Rectangles(6, *LARGE)[index][0].save(folder / f"{index}.png")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def detections_in_views(model: str, canvas: Path) -> list[Detections]:
    """Return what a detector finds in the views of the same images, without the command, as far as
    it is within the 48 rows of 64 that the image takes."""
    recipe = load_recipe(canvas)
    opened = open_model(model, classes=3, recipe=recipe, trained=True, task="detection").eval()
    source = as_source(Rectangles(6, *LARGE))
    views = ViewDataset(source, recipe, np.arange(6), sizes=[64]).batch([(i, 0) for i in range(6)])
    with torch.no_grad():
        found = opened(views.views[0]).detections()
    kept = []
    for boxes, scores, classes in found:
        cut = boxes.clamp(max=torch.tensor([64.0, 48.0, 64.0, 48.0]))
        has_area = (cut[:, 2] - cut[:, 0] >= 0.01) & (cut[:, 3] - cut[:, 1] >= 0.01)
        kept.append(Detections(cut[has_area], scores[has_area], classes[has_area]))
    assert sum(len(one.scores) for one in kept) < sum(len(one.scores) for one in found)
    return kept


@pytest.mark.parametrize("model", [TEACHER, TEACHER.replace("retinanet", "faster_rcnn")])
def test_boxes_are_those_of_the_views_in_pixels_of_the_images(
    model: str, canvas: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boxes.csv"
    words = ("--data", photos, "-o", out, "--recipe", canvas)
    result = kdcache_json("predict", model, *words, *WORDS)
    rows = rows_of(out)
    assert (result["images"], result["boxes"]) == (6, len(rows)) and rows
    assert [*rows[0]] == ["key", "class", "name", "score", "x0", "y0", "x1", "y1"]
    for index, found in enumerate(detections_in_views(model, canvas)):
        own = [row for row in rows if row["key"] == f"{index}.png"]
        order = found.scores.argsort(descending=True, stable=True)
        assert [int(row["class"]) for row in own] == found.classes[order].tolist()
        sides = torch.tensor([[float(row[side]) for side in SIDES] for row in own])
        expected = 2 * found.boxes[order]
        torch.testing.assert_close(sides.reshape(-1, 4), expected, atol=1e-3, rtol=0)
        scores = torch.tensor([float(row["score"]) for row in own])
        torch.testing.assert_close(scores, found.scores[order], atol=1e-5, rtol=0)


def test_the_surest_box_of_an_image_comes_first_and_others_may_be_left_out(
    canvas: Path, photos: Path, tmp_path: Path
) -> None:
    words = ("predict", STUDENT, "--data", photos, "--recipe", canvas, *WORDS)
    kdcache(*words, "-o", tmp_path / "all.csv")
    all_rows = rows_of(tmp_path / "all.csv")
    scores = np.array([float(row["score"]) for row in all_rows])
    keys = np.array([row["key"] for row in all_rows])
    for key in set(keys):
        assert (np.diff(scores[keys == key]) <= 0).all()
    least = float(np.median(scores))
    kdcache(*words, "-o", tmp_path / "some.csv", "--threshold", least)
    kept = [row for row in all_rows if float(row["score"]) > least]
    some = rows_of(tmp_path / "some.csv")
    assert 0 < len(kept) <= len(some) < len(all_rows)
    assert [row for row in some if float(row["score"]) > least] == kept


def test_that_no_box_reaches_the_threshold_is_told_with_one_that_would(
    canvas: Path, photos: Path, tmp_path: Path
) -> None:
    words = ("predict", STUDENT, "--data", photos, "--recipe", canvas, *WORDS)
    done = invoke(*words, "-o", tmp_path / "none.csv", "--threshold", "1")
    told = re.search(r"no box reaches threshold 1: the highest score is (0\.\d+); g", done.stderr)
    assert done.exit_code == 0 and told, done.output
    assert rows_of(tmp_path / "none.csv") == []
    some = invoke(*words, "-o", tmp_path / "some.csv", "--threshold", told[1])
    assert "note:" not in some.stderr
    assert rows_of(tmp_path / "some.csv")


def test_that_a_detector_keeps_no_box_at_all_is_told_with_what_would(
    canvas: Path, photos: Path, tmp_path: Path
) -> None:
    spec = STUDENT.replace("retinanet", "unsure")
    done = invoke(
        "predict", spec, "--data", photos, "--recipe", canvas, *WORDS, "-o", tmp_path / "none.csv"
    )
    assert done.exit_code == 0 and rows_of(tmp_path / "none.csv") == []
    assert "the model finds no box in these images; torchvision's detectors keep" in done.stderr


def test_parquet_says_the_same(canvas: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        words = ("--data", photos, "--recipe", canvas, "-o", tmp_path / name)
        kdcache("predict", STUDENT, *words, *WORDS)
    rows = rows_of(tmp_path / "a.csv")
    content = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(content) == len(rows) > 0
    for line, row in zip(content, rows, strict=True):
        assert (line["key"], str(line["class"]), line["name"]) == (
            row["key"],
            row["class"],
            row["name"],
        )
        assert line["x1"] == pytest.approx(float(row["x1"]), abs=1e-4)


def test_classes_have_the_names_that_the_user_gives(
    canvas: Path, photos: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    out = tmp_path / "a.csv"
    words = ("--data", photos, "--recipe", canvas, "-o", out, "--classes", names)
    kdcache("predict", STUDENT, *words, *WORDS)
    for row in rows_of(out):
        assert row["name"] == Rectangles.classes[int(row["class"])]


def test_data_with_boxes_say_the_task(canvas: Path, tmp_path: Path) -> None:
    words = ("--data", "tiny_detectors:rectangles", "--recipe", canvas, "-o", tmp_path / "a.csv")
    done = invoke("predict", STUDENT, *words, *PLACE)
    assert done.exit_code == 0 and "of 3 classes" in done.stdout, done.output
    assert {row["name"] for row in rows_of(tmp_path / "a.csv")} <= {*Rectangles.classes}
    line = mistake("predict", STUDENT, *words, *PLACE, "--align-corners")
    assert "align_corners is not for detection; leave it out" in line


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rectangles with COCO's annotations, whose ids are of no order that kdcache has."""
    root = tmp_path_factory.mktemp("annotated")
    write_coco_of_rectangles(root, "images", "boxes.json", 16)
    content = json.loads((root / "boxes.json").read_text())
    for image in content["images"]:
        image["id"] = 7000 - 11 * image["id"]
    for annotation in content["annotations"]:
        annotation["id"] += 1  # pycocotools takes 0 for none
        annotation["image_id"] = 7000 - 11 * annotation["image_id"]
        annotation["category_id"] = 10 * annotation["category_id"]
        annotation.update(area=annotation["bbox"][2] * annotation["bbox"][3], iscrowd=0)
    for category in content["categories"]:
        category["id"] *= 10
    (root / "boxes.json").write_text(json.dumps(content))
    return root


# of the lower two there are 16 rows of padding, and two of the image
@pytest.mark.parametrize("model", [BY_COLOUR, *(f"{BY_COLOUR},lowest_rows={n}" for n in (16, 18))])
def test_results_of_coco_have_the_ids_of_the_annotations(
    annotated: Path, canvas: Path, tmp_path: Path, model: str
) -> None:
    """And their AP, by COCO's own tools, is what `evaluate` says."""
    images, boxes, out = annotated / "images", annotated / "boxes.json", tmp_path / "found.json"
    spec = f"coco:{images},annotations={boxes}"
    words = (model, "--data", spec, "--recipe", canvas, *PLACE)
    told = kdcache_json("evaluate", *words)["scores"]
    result = kdcache_json("predict", *words, "-o", out)
    assert result["boxes"] == len(json.loads(out.read_text())) > 0
    for tool in (COCO, faster_coco_eval.COCO):
        assert len(tool(str(boxes)).loadRes(str(out)).anns) == result["boxes"]
    truth = COCO(str(boxes))
    evaluation = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75 = (100 * evaluation.stats[:3]).tolist()
    assert 10 < ap < 95, "neither nothing nor all is right"
    assert [told["ap"], told["ap50"], told["ap75"]] == pytest.approx([ap, ap50, ap75], abs=1e-6)


def test_boxes_in_the_padding_of_a_view_are_neither_written_nor_scored(
    annotated: Path, canvas: Path, tmp_path: Path
) -> None:
    spec = f"coco:{annotated}/images,annotations={annotated}/boxes.json"
    words = ("--data", spec, "--recipe", canvas, *PLACE)
    scores = {}
    for name, model in (("a", BY_COLOUR), ("b", f"{BY_COLOUR},lowest_rows=16")):
        scores[name] = kdcache_json("evaluate", model, *words)["scores"]
        kdcache("predict", model, *words, "-o", tmp_path / f"{name}.csv")
    assert scores["a"] == scores["b"]
    assert rows_of(tmp_path / "a.csv") == rows_of(tmp_path / "b.csv") != []


def test_results_of_a_fold_have_the_ids_of_its_images(
    annotated: Path, canvas: Path, tmp_path: Path
) -> None:
    spec = f"coco:{annotated}/images,annotations={annotated}/boxes.json,fold=1/3"
    words = (BY_COLOUR, "--data", spec, "--recipe", canvas, *PLACE)
    for name in ("a.csv", "a.json"):
        kdcache("predict", *words, "-o", tmp_path / name)
    images = COCO(annotated / "boxes.json").imgs
    results = json.loads((tmp_path / "a.json").read_text())
    rows = rows_of(tmp_path / "a.csv")
    assert len(results) == len(rows) > 0
    for result, row in zip(results, rows, strict=True):
        assert images[result["image_id"]]["file_name"] == row["key"]
        assert result["category_id"] == 10 * (1 + int(row["class"]))
        left, upper, width, height = result["bbox"]
        sides = [float(row[side]) for side in SIDES]
        assert [left, upper, left + width, upper + height] == pytest.approx(sides, abs=1e-4)


def test_results_of_images_without_ids_count_from_0(
    photos: Path, canvas: Path, tmp_path: Path
) -> None:
    words = ("predict", STUDENT, "--data", photos, "--recipe", canvas, *WORDS)
    kdcache(*words, "-o", tmp_path / "a.json")
    kdcache(*words, "-o", tmp_path / "a.csv")
    results = json.loads((tmp_path / "a.json").read_text())
    rows = rows_of(tmp_path / "a.csv")
    assert len(results) == len(rows) > 0
    for result, row in zip(results, rows, strict=True):
        assert f"{result['image_id']}.png" == row["key"]
        assert result["category_id"] == int(row["class"])
    kdcache(*words, "-o", tmp_path / "none.json", "--threshold", 1)
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_results_of_other_classes_than_the_annotations_are_refused(
    annotated: Path, canvas: Path, tmp_path: Path
) -> None:
    spec = f"coco:{annotated}/images,annotations={annotated}/boxes.json"
    words = ("--data", spec, "--recipe", canvas, *PLACE, "--classes", 5)
    model = f"{BY_COLOUR},classes=5"
    line = mistake("predict", model, *words, "-o", tmp_path / "a.json")
    assert "has 3 classes, and the model 5: results have the ids of the data's classes" in line
    kdcache("predict", model, *words, "-o", tmp_path / "a.csv")
