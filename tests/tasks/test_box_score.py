"""Average precision, against pycocotools' own evaluation of the original images."""

import contextlib
import io
import logging.handlers
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from processes import launch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdcache.errors import KdcacheWarning, UsageError
from kdcache.runtime.distributed import rank, world_size
from kdcache.shapes import Detections, Labels, Objects
from kdcache.tasks.box_score import BoxScore

CLASSES = 12
NAMES = [f"class {number}" for number in range(CLASSES)]
SIDE = 640


class Image(NamedTuple):
    """What is in an image, and what was found, in its own pixels: boxes `[n, 4]` as left, upper,
    width and height."""

    boxes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    found_boxes: np.ndarray
    found_classes: np.ndarray
    scores: np.ndarray
    view_scale: float
    """Pixels of the view to one of the image, along a side."""
    offset: tuple[float, float]
    """Left and upper side of the image in its view."""


def image(generator: np.random.Generator, *, most_found: int = 30) -> Image:
    """Return a random image; of five one has no object, and one other no detection."""
    kind = generator.integers(5)
    count = 0 if kind == 0 else int(generator.integers(1, 15))
    sides = np.exp(generator.uniform(np.log(6), np.log(300), (count, 2)))
    corners = generator.uniform(0, 1, (count, 2)) * (SIDE - sides)
    boxes = np.concatenate([corners, sides], axis=1)
    classes = generator.integers(0, CLASSES - 2, count)
    num_found = 0 if kind == 1 else int(generator.integers(1, most_found))
    places = generator.integers(0, max(count, 1), num_found)
    found_boxes = generator.uniform(20, 200, (num_found, 4))
    found_classes = generator.integers(0, CLASSES, num_found)
    if count:
        jitter = generator.normal(0, 0.08, (num_found, 4)) * np.tile(sides[places], 2)
        found_boxes = boxes[places] + jitter
        found_boxes[:, 2:] = np.abs(found_boxes[:, 2:])
        is_right = generator.uniform(size=num_found) < 0.8
        found_classes = np.where(is_right, classes[places], found_classes)
    return Image(
        boxes,
        classes,
        (sides.prod(1) * generator.uniform(0.4, 1, count)).astype(np.float32),
        generator.uniform(size=count) < 0.15,
        found_boxes,
        found_classes,
        generator.permutation(num_found * 7)[:num_found].astype(np.float32) / (num_found * 7 + 1)
        + generator.uniform(0, 1e-3, num_found).astype(np.float32),
        float(generator.uniform(0.3, 2)),
        (float(generator.uniform(0, 100)), float(generator.uniform(0, 100))),
    )


def images(seed: int, count: int = 40) -> list[Image]:
    generator = np.random.default_rng(seed)
    return [image(generator) for _ in range(count)]


def in_view(boxes: np.ndarray, one: Image) -> torch.Tensor:
    """Return boxes as left, upper, right and lower side in pixels of the view."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return torch.from_numpy(corners * one.view_scale + np.tile(one.offset, 2)).float()


def detections_of(one: Image) -> Detections:
    return Detections(
        in_view(one.found_boxes, one),
        torch.from_numpy(one.scores),
        torch.from_numpy(one.found_classes),
    )


def labels_of(batch: Sequence[Image]) -> Labels:
    most = max(len(one.boxes) for one in batch)
    classes = torch.full((len(batch), most), -1)
    objects = Objects(
        torch.full((len(batch), most, 4), 7.0),
        torch.full((len(batch), most), 7.0),
        torch.zeros(len(batch), most, dtype=torch.bool),
        torch.cat([in_view(np.array([[0.0, 0.0, SIDE, SIDE]]), one) for one in batch]),
        torch.tensor([[float(SIDE), float(SIDE)]] * len(batch)),
    )
    for place, one in enumerate(batch):
        count = len(one.boxes)
        classes[place, :count] = torch.from_numpy(one.classes)
        objects.boxes[place, :count] = in_view(one.boxes, one)
        objects.areas[place, :count] = torch.from_numpy(one.areas)
        objects.is_crowd[place, :count] = torch.from_numpy(one.is_crowd)
    return Labels(classes, objects=objects)


def score(
    all_images: Sequence[Image], *, batch_size: int = 7, names: Sequence[str] = NAMES
) -> dict[str, float]:
    counted = BoxScore(names)
    for start in range(0, len(all_images), batch_size):
        batch = all_images[start : start + batch_size]
        counted.add([detections_of(one) for one in batch], labels_of(batch))
    return counted.result()


def within_image(boxes: np.ndarray) -> np.ndarray:
    """Return boxes cut at the edges of their image."""
    corners = boxes[:, :2].clip(0, SIDE)
    ends = (boxes[:, :2] + boxes[:, 2:]).clip(0, SIDE)
    return np.concatenate([corners, ends - corners], axis=1)


def expected_scores(all_images: Sequence[Image], names: Sequence[str] = NAMES) -> dict[str, float]:
    """Return what pycocotools says of the images, by our names; -100 where it has nothing."""
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, one in enumerate(all_images):
        for box, label, area, crowd in zip(
            one.boxes, one.classes, one.areas, one.is_crowd, strict=True
        ):
            place = {"image_id": number, "category_id": int(label), "bbox": box.tolist()}
            objects.append(
                {**place, "id": len(objects) + 1, "area": float(area), "iscrowd": int(crowd)}
            )
        for box, label, score in zip(
            within_image(one.found_boxes), one.found_classes, one.scores, strict=True
        ):
            place = {"image_id": number, "category_id": int(label), "bbox": box.tolist()}
            found.append({**place, "score": float(score)})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(len(all_images))],
        "annotations": objects,
        "categories": [{"id": number} for number in range(len(names))],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    kinds = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    expected = {
        kind: 100 * float(value) for kind, value in zip(kinds, evaluation.stats, strict=False)
    }
    for index, name in enumerate(names):
        expected[f"ap/{name}"] = 100 * float(
            evaluation.eval["precision"][:, :, index, 0, -1].mean()
        )
    return expected


def without_nothing(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if value >= 0}


@pytest.mark.parametrize("seed", range(8))
def test_it_is_that_of_pycocotools(seed: int) -> None:
    scene = images(seed)
    expected = expected_scores(scene)
    known = without_nothing(expected)
    assert 10 < expected["ap"] < 90, "nothing trivial"
    assert len(known) < len(expected), "a class without objects"
    assert score(scene) == pytest.approx(known, abs=1e-6)


def test_of_a_class_in_a_view_a_hundred_detections_count() -> None:
    generator = np.random.default_rng(1)
    scene = [image(generator, most_found=900) for _ in range(10)]
    scene = [
        one._replace(classes=one.classes % 2, found_classes=one.found_classes % 2) for one in scene
    ]
    assert max(len(one.scores) for one in scene) > 500
    expected = expected_scores(scene, NAMES[:2])
    assert score(scene, names=NAMES[:2]) == pytest.approx(expected, abs=1e-6)


def perfect(one: Image) -> Image:
    return one._replace(
        found_boxes=one.boxes, found_classes=one.classes, scores=np.ones(len(one.boxes), np.float32)
    )


def test_perfect_detections_give_100() -> None:
    found = score([perfect(one) for one in images(3)])
    assert {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"} < set(found)
    assert [*found.values()] == pytest.approx([100.0] * len(found))


def test_sizes_are_those_of_the_image() -> None:
    """In a view of a quarter of the sides, a medium object is small."""
    generator = np.random.default_rng(0)
    one = image(generator)._replace(
        boxes=np.array([[10.0, 10, 60, 60]]),
        classes=np.array([0]),
        areas=np.array([3000.0], np.float32),
        is_crowd=np.array([False]),
        found_boxes=np.array([[10.0, 10, 60, 60], [200, 200, 60, 60]]),
        found_classes=np.array([0, 0]),
        scores=np.array([0.5, 0.9], np.float32),
        view_scale=0.25,
    )
    found = score([one], names=["a"])
    assert found["ap_medium"] == found["ap"] == pytest.approx(50.0)
    assert "ap_small" not in found and "ap_large" not in found
    labels = labels_of([one])
    assert labels.objects is not None
    labels.objects.areas[:] = 200
    labels.objects.frames[:] = math.nan  # as 1: the wrong detection is as small as it looks
    counted = BoxScore(["a"])
    counted.add([detections_of(one)], labels)
    assert counted.result()["ap_small"] == pytest.approx(50.0)


def score_of_share(scene: list[Image]) -> dict[str, float]:
    """Return what a process says that has seen every so many images."""
    return score(scene[rank() :: world_size()], batch_size=3)


def test_several_processes_say_what_one_says() -> None:
    scene = images(5, 21)
    rounded = [one._replace(scores=np.round(one.scores * 4).astype(np.float32)) for one in scene]
    alone = score(rounded)
    assert alone["ap"] != score([*reversed(rounded)])["ap"], "the order of equal scores counts"
    assert alone == pytest.approx(without_nothing(expected_scores(rounded)), abs=1e-6)
    assert launch(score_of_share, 2, rounded) == [alone, alone]
    assert launch(score_of_share, 2, rounded[:1]) == [score(rounded[:1])] * 2, "one has no view"


def test_nothing_found_is_0_and_no_object_is_told() -> None:
    scene = images(2, 6)
    nothing = [
        one._replace(
            found_boxes=np.zeros((0, 4)), found_classes=np.zeros(0, int), scores=np.zeros(0)
        )
        for one in scene
    ]
    found = score(nothing)
    assert found["ap"] == 0.0 and set(found.values()) == {0.0}
    empty = [
        one._replace(
            boxes=np.zeros((0, 4)),
            classes=np.zeros(0, int),
            areas=np.zeros(0),
            is_crowd=np.zeros(0, bool),
        )
        for one in scene
    ]
    crowds = [one._replace(is_crowd=np.ones(len(one.boxes), bool)) for one in scene]
    for objectless in (empty, crowds, []):
        with pytest.warns(KdcacheWarning, match="no view that was scored has an object"):
            assert score(objectless) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}


def test_classes_of_one_name_are_told_apart() -> None:
    scene = images(4)
    found = score(scene, names=["crane", "owl", "crane", "crane (0)", *NAMES[4:]])
    expected = score(scene)
    assert found["ap"] == expected["ap"]
    assert found["ap/crane (0)"] in (expected["ap/class 0"], expected["ap/class 3"])
    assert found["ap/owl"] == expected["ap/class 1"]
    assert found["ap/crane (2)"] == expected["ap/class 2"]
    assert "ap/crane" not in found


def test_what_is_no_number_is_no_detection() -> None:
    one = perfect(next(one for one in images(6) if len(one.boxes) > 3))
    scores, boxes = one.scores.copy(), one.found_boxes.copy()
    scores[0], boxes[1, 2], boxes[2, 0] = math.nan, math.inf, math.nan
    broken = one._replace(scores=scores, found_boxes=boxes)
    kept = one._replace(
        scores=one.scores[3:], found_boxes=one.boxes[3:], found_classes=one.classes[3:]
    )
    assert score([broken]) == score([kept]) != score([one])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_any_type_are_taken(dtype: torch.dtype) -> None:
    scene = images(7, 5)
    counted, expected = BoxScore(NAMES), BoxScore(NAMES)
    for one in scene:
        boxes, scores, classes = detections_of(one)
        rounded = scores.to(dtype).requires_grad_()
        counted.add([Detections(boxes, rounded, classes)], labels_of([one]))
        expected.add([Detections(boxes, rounded.detach().float(), classes)], labels_of([one]))
    assert counted.result() == expected.result()


def test_nothing_is_printed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = logging.handlers.BufferingHandler(1_000)
    monkeypatch.setattr(logging.root, "handlers", [logged])
    monkeypatch.setattr(logging.root, "level", logging.DEBUG)
    score(images(1, 5))
    assert capfd.readouterr() == ("", "")
    assert not logged.buffer


def test_a_missing_package_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'kdcache\[detection\]'$") as raised:
        BoxScore(NAMES)
    assert "\n" not in str(raised.value)
