"""The boxes that a saved detector finds, in a table."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from box_caches import STUDENT, TEACHER
from command_line import invoke, kdcache, kdcache_json, mistake
from pyarrow import parquet
from tiny_detectors import Rectangles

from kdcache.models.model import open_model
from kdcache.shapes import Detections
from kdcache.sources import as_source
from kdcache.views import ViewDataset, load_recipe

PLACE = ("--workers", "0", "--device", "cpu")
SIDES = ("x0", "y0", "x1", "y1")
WORDS = ("--task", "detection", *PLACE)
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
    """Return what a detector finds in the views of the same images, without the command."""
    recipe = load_recipe(canvas)
    opened = open_model(model, classes=3, recipe=recipe, trained=True, task="detection").eval()
    source = as_source(Rectangles(6, *LARGE))
    views = ViewDataset(source, recipe, np.arange(6), sizes=[64]).batch([(i, 0) for i in range(6)])
    with torch.no_grad():
        return opened(views.views[0]).detections()


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
        expected = (2 * found.boxes[order]).clamp(max=torch.tensor([128.0, 96.0, 128.0, 96.0]))
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
