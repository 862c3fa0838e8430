"""Scenes with boxes of `examples/`, the detectors for them, and the study that trains them."""

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import dump, train
from safetensors.torch import load_file

from kdcache import open_source

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules of the examples and benchmarks be found."""
    for folder in ("examples", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with some scenes and pictures of one object, in `boxes`."""
    scenes = import_module("boxed_scenes")
    scenes.write(tmp_path / "boxes", "train", 8)
    scenes.write(tmp_path / "boxes", "test", 3)
    scenes.write_few(tmp_path / "boxes", 5)
    scenes.write_crops(tmp_path / "boxes", 200)
    return tmp_path


def scenes_of(folder: Path, annotations: str) -> str:
    """Return the spec of scenes to train on."""
    boxes = folder / "boxes"
    return f"coco:{boxes / 'train'},annotations={boxes / annotations}.json"


def test_boxes_are_those_of_what_is_seen() -> None:
    scenes = import_module("boxed_scenes")
    owners = np.full((40, 40), -1)
    owners[2:12, 3:9] = 0  # 60 pixels, all in sight
    owners[20:30, 20:30] = 1  # a scribble
    owners[30:40, 0:10] = 2  # a quarter of 400 pixels
    owners[0:5, 30:35] = 3  # all of 25 pixels, which are too few
    boxes, seen = scenes._seen_boxes(owners, [4, -1, 5, 6, 7], [60, 100, 400, 25, 50])
    assert seen == [0]
    assert boxes.tolist() == [[3, 2, 9, 12]]


def test_boxes_of_a_scene_hold_its_objects_and_nearly_hidden_ones_are_left_out() -> None:
    scenes = import_module("boxed_scenes").BoxedScenes("test", 20)
    kept = 0
    for index in range(20):
        image, objects = scenes[index]
        left, top, right, bottom = objects["boxes"].T
        assert image.size == (96, 96)
        assert (left >= 0).all() and (top >= 0).all() and (right <= 96).all()
        assert ((right - left) * (bottom - top) >= 30).all() and (bottom <= 96).all()
        assert ((objects["labels"] >= 0) & (objects["labels"] < len(scenes.classes))).all()
        kept += len(objects["labels"])
    # 4 to 9 things a scene, of which a quarter are scribbles
    assert 20 * 2 < kept < 20 * 9 * 0.75


def test_the_source_reads_back_the_boxes_that_were_drawn(folder: Path) -> None:
    scenes = import_module("boxed_scenes").BoxedScenes("train", 8)
    source = open_source(scenes_of(folder, "train"))
    few = open_source(scenes_of(folder, "few"))
    assert (len(source), len(few)) == (8, 5)
    for index in range(8):
        drawn = scenes[index][1]
        objects = source.sample(index).target
        assert objects.boxes.tolist() == drawn["boxes"].tolist()
        assert objects.classes.tolist() == drawn["labels"].tolist()
    assert few.sample(4).target.boxes.tolist() == scenes[4][1]["boxes"].tolist()


def test_a_student_begins_with_its_body_learns_from_a_cache_and_is_scored(folder: Path) -> None:
    study = import_module("detection_study")
    options = argparse.Namespace(student="boxed_models:student")
    kept = study.Folder(folder, options)
    first: dict[str, Any] = {"loss": "ce", "epochs": 1, "batch_size": 8}
    crops = f"imagefolder:{folder / 'boxes' / 'crops'}"
    body = folder / "student-body"
    train(body, data=crops, student="boxed_models:student_body", recipe="eval-whole", **first)
    weights = load_file(body / "student.safetensors")
    module = import_module("boxed_models").student(
        weights_backbone=str(body / "student.safetensors")
    )
    begun = module.backbone.body.state_dict()
    assert all(torch.equal(begun[name], weights[f"body.{name}"]) for name in begun)

    student = kept.detector("student")
    recipe = str(study.RECIPE)
    train(folder / "teacher", data=kept.data("train"), student=student, recipe=recipe, **first)
    teacher = f"{options.student},weights={folder / 'teacher' / 'student.safetensors'}"
    dump(folder / "cache", data=kept.data("few"), teacher=teacher, recipe=recipe, seeds="0:1")
    settings = {"cache": str(folder / "cache"), "data": kept.data("few"), "student": student}
    run = folder / "run"
    train(run, **settings, loss="dist:tau=1,beta=1,gamma=1", epochs=1, batch_size=4)
    scores = study.scores_of(kept, run, options.student)
    assert 0 <= scores["ap"] <= scores["ap50"] <= 100 and scores["seconds"] > 0
    assert json.loads((run / "test.json").read_text())["ap"] == scores["ap"]


def test_arms_are_compared_run_seed_by_run_seed() -> None:
    study = import_module("detection_study")
    runs = {}
    labels = {}
    for seed, (score, reference) in enumerate([(12.0, 10.0), (15.0, 11.0), (18.0, 12.0)]):
        runs[str(seed)] = dict.fromkeys(study.SCORES, score) | {"seconds": 2.0}
        labels[str(seed)] = dict.fromkeys(study.SCORES, reference) | {"seconds": 2.0}
    line = study.summary(runs, labels)
    assert line["ap"] == pytest.approx({"n": 3, "mean": 15, "error": 3**0.5, "min": 12, "max": 18})
    above = {"n": 3, "mean": 4, "error": (4 / 3) ** 0.5, "min": 2, "max": 6}
    assert line["ap50_above_labels"] == pytest.approx(above)
