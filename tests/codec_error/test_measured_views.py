"""What codecs turn of the gradient that a task's own training has, on whole views."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, boxes_for, random_logits
from torch import Tensor

from kdcache.codec_error.calibration import TAUS, fit_codec
from kdcache.codec_error.ladder import default_ladder
from kdcache.codec_error.measure import codec_costs, fitted_gradients
from kdcache.codec_error.measured_views import MeasuredViews, dist_errors, neighbours
from kdcache.codec_error.position_sample import (
    MEASURED_VIEWS,
    PositionSample,
    measured_rows,
    position_sample,
    positions_of_views,
)
from kdcache.codecs import Full, open_codec, with_layout
from kdcache.errors import UsageError
from kdcache.losses import dist_loss, open_loss
from kdcache.models.one_stage import PyramidLogits
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Heads, Layout, Pyramid
from kdcache.shapes import Labels
from kdcache.soft_targets import SoftTargets, by_segment
from kdcache.tasks.detection import Detection
from kdcache.tasks.segmentation import Segmentation

CLASSES = 6
MANY = {name: layout for name, layout in LAYOUTS.items() if layout.sites}
PYRAMID = Pyramid(((6, 4), (3, 2)), anchors=(2, 2))
BOTH = open_loss("dist:tau=1,beta=1,gamma=1")


def views_of(layout: Layout, views: int = 4, seed: int = 0) -> MeasuredViews:
    """Return views with another teacher in the student's place."""
    shape = (views, *layout.sites, CLASSES)
    logits = random_logits(*shape, seed=seed)
    student = random_logits(*shape, seed=seed + 1)
    boxes = boxes_for(layout, views)
    return MeasuredViews(logits=logits, student=student, layout=layout, boxes=boxes)


def sample_of(layout: Layout, views: int = 12) -> PositionSample:
    logits = random_logits(views, *layout.sites, CLASSES)
    rows = np.arange(views)
    whole_rows = measured_rows(rows, layout, CLASSES)
    of_views = TeacherLogits(logits, boxes_for(layout, views))
    part = positions_of_views(of_views, rows, count=30, whole_rows=whole_rows)
    return position_sample([part], layout)


@dataclass(frozen=True, eq=False)
class Output(PyramidLogits):
    """What a detector gives that has nothing to learn from labels."""

    logits: Tensor
    layout: Pyramid

    def label_losses(self, labels: Labels) -> dict[str, Tensor]:
        return {"none": torch.zeros(())}

    def detections(self) -> Any:
        raise AssertionError


def training_loss(layout: Layout, student: Tensor, teacher: SoftTargets) -> Tensor:
    """Return DIST as the task of a layout has it in a training."""
    nothing = {"label_smoothing": 0.0}
    if isinstance(layout, Heads):
        masks = Labels(torch.zeros(len(student), 4, 4, dtype=torch.uint8))
        terms = Segmentation().terms(BOTH, student, teacher, masks, **nothing)
    else:
        assert isinstance(layout, Pyramid)
        labels = Labels(torch.zeros(len(student), 0))
        terms = Detection().terms(BOTH, Output(student, layout), teacher, labels, **nothing)
    return terms["inter"] + terms["intra"]


@pytest.mark.parametrize("spec", ["full:dtype=uint4", "topk:k=2"])
@pytest.mark.parametrize("name", ["heads of one size", "pyramid", "pyramid with background"])
def test_the_error_is_that_of_the_gradient_of_the_tasks_training(name: str, spec: str) -> None:
    layout = MANY[name]
    views = views_of(layout)
    rows = open_codec(spec, classes=CLASSES)
    codec = with_layout(rows, layout)
    gradients = []
    for teacher in (by_segment(views.logits, layout), codec.decode(codec.encode(views.logits))):
        student = views.student.clone().requires_grad_()
        loss = training_loss(layout, student, teacher)
        gradients.append(torch.autograd.grad(loss, student)[0])
    exact, other = gradients
    expected = float((other - exact).norm() / exact.norm())
    assert expected > 0.01
    assert dist_errors(rows, views, [1.0])[1.0] == pytest.approx(expected, rel=1e-4)


def test_of_proposals_all_that_there_are_are_compared_together() -> None:
    layout = MANY["proposals"]
    views = views_of(layout, views=6)
    assert views.boxes is not None and views.boxes.counts.tolist() == [0, 1, 5, 0, 1, 5]
    rows = open_codec("full:dtype=uint4", classes=CLASSES)
    is_there = torch.arange(5) < views.boxes.counts[:, None]
    exact = views.logits[is_there]
    gradients = []
    for teacher in (exact, rows.decode(rows.encode(exact))):
        student = views.student[is_there].requires_grad_()
        gradients.append(torch.autograd.grad(dist_loss(student, teacher), student)[0])
    expected = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    assert dist_errors(rows, views, [1.0])[1.0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", MANY)
def test_finer_codecs_have_a_smaller_error_and_exact_records_none(name: str) -> None:
    views = views_of(MANY[name], views=6)
    exact = Full(classes=CLASSES, dtype="float32")
    assert dist_errors(exact, views, TAUS) == dict.fromkeys(TAUS, 0.0)
    if MANY[name].has_boxes:
        specs = ["full:dtype=uint4", "full:dtype=uint8", "full:dtype=float16"]
    else:
        specs = [f"cosine:steps={steps}" for steps in (4, 16, 64)]
    sample = random_logits(200, CLASSES, seed=9)
    errors = []
    for spec in specs:
        fitted = open_codec(spec, classes=CLASSES).fit(sample)
        errors.append(dist_errors(fitted, views, TAUS)[1.0])
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] > 0


def test_a_neighbour_is_the_same_anchor_at_the_next_place_of_the_line() -> None:
    places = torch.arange(PYRAMID.num_positions).float().reshape(1, -1, 1)
    following = neighbours(places, PYRAMID)[0, :, 0].tolist()
    assert following[:8] == [2, 3, 4, 5, 6, 7, 0, 1]
    assert following[48:52] == [50, 51, 48, 49]


def test_a_neighbour_is_the_next_pixel_of_the_same_head_and_the_next_proposal_of_a_view() -> None:
    maps = torch.arange(12.0).reshape(1, 2, 2, 3, 1)
    heads = MANY["heads of one size"]
    assert neighbours(maps, heads).flatten().tolist() == [1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11, 9]
    layout = MANY["proposals"]
    boxes = boxes_for(layout, 4)
    assert boxes is not None
    boxes.counts[3] = 3
    rows = torch.arange(20.0).reshape(4, 5, 1)
    following = neighbours(rows, layout, boxes)[..., 0].int().tolist()
    assert following[1] == [5, 6, 7, 8, 9], "which are none"
    assert following[2] == [11, 12, 13, 14, 10] and following[3][:3] == [16, 17, 15]


def test_a_quarter_of_the_views_is_measured_as_far_as_memory_goes() -> None:
    rows = np.arange(10, 110)
    counts = [len(measured_rows(rows[:number], PYRAMID, 3)) for number in (1, 7, 16, 64, 100)]
    assert counts == [1, 1, 4, 16, MEASURED_VIEWS]
    large = Heads(((1024, 1024),))
    assert measured_rows(rows, large, 16).tolist() == [10, 11]
    assert measured_rows(rows, large, 100).tolist() == [10]


def test_codecs_are_fitted_to_positions_of_other_views_than_they_are_measured_on() -> None:
    sample = sample_of(PYRAMID)
    assert sample.whole_rows.tolist() == [0, 1, 2] == sorted(sample.whole_rows)
    fitting, measured = sample.parted()
    assert sorted(set(fitting.groups)) == list(range(3, 12)) and len(fitting.teacher) == 9 * 30
    assert len(measured.views) == 3
    (alone,) = {len(part.teacher) for part in sample_of(PYRAMID, views=1).parted()}
    assert alone == 30, "of a single view its own positions"
    with pytest.raises(UsageError, match="a single view is measured, and none is left"):
        sample_of(PYRAMID, views=1).halves()


def test_without_a_readable_view_nothing_is_measured() -> None:
    sample = sample_of(PYRAMID)
    rows = np.arange(3, 12)
    logits = TeacherLogits(random_logits(9, *PYRAMID.sites, CLASSES))
    part = positions_of_views(logits, rows, count=5, whole_rows=sample.whole_rows)
    left = position_sample([part], PYRAMID)
    assert fit_codec(open_codec("full", classes=CLASSES), left).errors == {}
    with pytest.raises(UsageError, match="no sample can be read of those that codecs are measured"):
        left.require_gradient()


@pytest.mark.parametrize("name", MANY)
def test_the_ladder_has_every_codec_that_a_layout_can_have(name: str) -> None:
    layout = MANY[name]
    families = {spec.partition(":")[0] for spec in default_ladder(CLASSES, layout)}
    expected = {"full", "topk"}
    if not layout.has_boxes:
        expected.add("cosine")
    if layout.activation == "softmax":
        expected.add("lowrank")
    assert families == expected
    assert "cosine:steps=12" not in default_ladder(4000, layout)


@pytest.mark.parametrize("name", MANY)
def test_what_a_codec_costs_is_what_a_dump_with_it_states(name: str) -> None:
    sample = sample_of(MANY[name])
    fitting, measured = sample.halves()
    specs = ["full:dtype=uint4", "cosine", "lowrank:step=0.5", "topk:k=2"]
    result = codec_costs(fitting, measured, specs, taus=TAUS, batch_sizes=[256])
    assert result["batch_sizes"] == [3] and set(result["failed"]) <= {"lowrank:step=0.5"}
    for cost in result["codecs"]:
        fitted = fit_codec(open_codec(cost["codec"], classes=CLASSES), sample)
        assert cost["gradients"] == fitted_gradients(fitted)
        errors = [case["both"]["error"] for case in cost["gradients"]]
        assert errors == pytest.approx(list(fitted.errors.values()), rel=1e-3)


def test_a_batch_has_as_many_views_as_are_said() -> None:
    sample = sample_of(PYRAMID, views=32)
    fitting, measured = sample.halves()
    settings: dict[str, Any] = {"taus": [1.0], "batch_sizes": [2, 8, 100]}
    result = codec_costs(fitting, measured, ["full:dtype=uint4"], **settings)
    assert result["batch_sizes"] == [2, 8], "8 are measured"
    two, eight = [case["both"]["error"] for case in result["codecs"][0]["gradients"]]
    assert two != eight and two == pytest.approx(eight, rel=0.3)


def test_codecs_that_positions_cannot_have_fail_with_the_reason() -> None:
    fitting, measured = sample_of(PYRAMID).halves()
    specs = ["lowrank:step=1", "full:dtype=uint8"]
    result = codec_costs(fitting, measured, specs, taus=[1.0], batch_sizes=[4])
    assert [cost["codec"] for cost in result["codecs"]] == specs[1:]
    assert "does not hold the mean of a row" in result["failed"]["lowrank:step=1"]
    maps = sample_of(MANY["heads of one size"]).halves()
    with pytest.raises(UsageError, match="is fitted to single rows"):
        codec_costs(*maps, ["lowrank:bytes=10"], taus=[1.0], batch_sizes=[4])


def test_a_target_is_met_on_whole_views() -> None:
    sample = sample_of(Heads(((8, 8),)), views=40)
    fitted = fit_codec(open_codec("lowrank:error=0.2", classes=CLASSES), sample)
    assert 0.15 < max(fitted.errors.values()) <= 0.2
