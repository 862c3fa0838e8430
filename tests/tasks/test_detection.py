"""Detection: a detector run in parts gives what torchvision's gives as a whole, and the loss against
the teacher is the published one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import faster_rcnn, fcos, mask_rcnn, rectangles, retinanet, ssd
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection.image_list import ImageList

from kdcache.errors import ModelError, UsageError
from kdcache.losses import open_loss
from kdcache.models.detection import DetectionModel
from kdcache.models.model import open_model
from kdcache.models.one_stage import HeadOutput, PyramidOutput
from kdcache.models.preprocessing import GivenPreprocessing, Preprocessing
from kdcache.models.wrapping import tried_model
from kdcache.positions import Proposals, Pyramid
from kdcache.shapes import Labels
from kdcache.soft_targets import by_segment
from kdcache.sources import as_source
from kdcache.tasks.classification import Classification
from kdcache.tasks.detection import Detection
from kdcache.tasks.segmentation import Segmentation
from kdcache.views import Recipe, ViewDataset

TABLE = {
    "size": 64,
    "transforms": [
        {"name": "RandomHorizontalFlip"},
        {"name": "kdcache.Letterbox", "size": "input", "fill": [114, 114, 114]},
    ],
}
RECIPE = Recipe("boxes", TABLE)
HALVES = GivenPreprocessing(mean=0.5, std=0.25)


def batch_of_views(num_views: int = 6) -> Any:
    source = as_source(rectangles())
    dataset = ViewDataset(source, RECIPE, np.arange(len(source)), sizes=[64])
    return dataset.batch([(row, 3) for row in range(num_views)])


def detector(module: nn.Module) -> DetectionModel:
    model = tried_model(module, RECIPE, HALVES, classes=3, task="detection")
    assert isinstance(model, DetectionModel)
    return model


class Untouched(nn.Module):
    """In the place of torchvision's own resizing: images as they are."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return ImageList(torch.stack(images), sizes), targets

    def postprocess(self, result: Any, *sizes: Any) -> Any:
        return result


@pytest.mark.parametrize(
    ("module", "first_class"),
    [
        (retinanet(), 0),
        (retinanet(anchors=1), 0),
        (fcos(), 0),
        (ssd(), 1),
        (faster_rcnn(), 1),
        (mask_rcnn(), 1),
    ],
    ids=["retinanet", "one anchor", "fcos", "ssd", "faster rcnn", "mask rcnn"],
)
def test_its_losses_and_detections_are_those_of_torchvisions_whole_detector(
    module: Any, first_class: int
) -> None:
    batch = batch_of_views()
    model = detector(module).eval()
    detections = model(batch.views[0]).detections()
    images = [*torch.sub(batch.views[0], model.mean).div(model.std)]
    whole_transform = module.transform
    module.transform = Untouched()
    expected_detections = module.eval()(images)
    for detection, expected in zip(detections, expected_detections, strict=True):
        assert torch.equal(detection.boxes, expected["boxes"])
        assert torch.equal(detection.scores, expected["scores"])
        assert torch.equal(detection.classes, expected["labels"] - first_class)
    torch.manual_seed(5)
    losses = model.train()(batch.views[0]).label_losses(batch.labels)
    torch.manual_seed(5)
    expected_losses = module(images, whole_targets(batch.labels, first_class))
    expected_losses.pop("loss_mask", None)
    assert losses.keys() == expected_losses.keys()
    for name, expected in expected_losses.items():
        assert torch.equal(losses[name], expected), name
    module.transform = whole_transform


def whole_targets(labels: Labels, first_class: int) -> list[dict[str, Tensor]]:
    """Return what a whole detector of torchvision is trained on; of every object the mask is all
    of the view."""
    assert labels.objects is not None
    targets = []
    for classes, boxes in zip(labels.first, labels.objects.boxes, strict=True):
        own_boxes = boxes[classes >= 0]
        masks = torch.ones(len(own_boxes), 64, 64, dtype=torch.uint8)
        own_classes = classes[classes >= 0] + first_class
        targets.append({"boxes": own_boxes, "labels": own_classes, "masks": masks})
    return targets


def published(student: Tensor, teacher: Tensor) -> Tensor:
    """Return DIST as the paper's code computes it of one level's scores, `[views, anchors * classes,
    height, width]`: beta = gamma = 1, sigmoid, no temperature."""
    rows = []
    for scores in (student, teacher):
        rows.append(scores.permute(0, 2, 3, 1).flatten(0, 2).sigmoid())
    ours, theirs = rows

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a = a - a.mean(1, keepdim=True)
        b = b - b.mean(1, keepdim=True)
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    return 2 - correlation(ours, theirs) - correlation(ours.T, theirs.T)


@pytest.mark.parametrize("num_anchors", [1, 2])
def test_dist_is_the_published_loss_of_every_level_summed(num_anchors: int) -> None:
    batch = batch_of_views()
    student = detector(retinanet(seed=1, anchors=num_anchors))
    teacher = detector(retinanet(seed=2, anchors=num_anchors))
    output = student(batch.views[0])
    with torch.no_grad():
        teacher_output = teacher(batch.views[0])
    soft_targets = by_segment(teacher_output.logits, teacher_output.layout)
    loss = open_loss("dist:tau=1,beta=1,gamma=1")
    terms = Detection().terms(loss, output, soft_targets, batch.labels, label_smoothing=0.0)
    expected = torch.zeros(())
    for own, theirs in zip(level_maps(output), level_maps(teacher_output), strict=True):
        expected = expected + published(own, theirs)
    torch.testing.assert_close(terms["inter"] + terms["intra"], expected)
    losses = output.label_losses(batch.labels).values()
    torch.testing.assert_close(terms["task"], torch.stack([*losses]).sum())


def level_maps(output: HeadOutput) -> list[Tensor]:
    """Return the scores of each level as a convolution gives them, `[views, anchors * classes,
    height, width]`."""
    maps = []
    start = 0
    for segment in output.layout.segments:
        height, width, _ = segment.shape
        num_positions = segment.num_positions
        level = output.logits[:, start : start + num_positions]
        maps.append(level.reshape(len(level), height, width, -1).permute(0, 3, 1, 2))
        start += num_positions
    return maps


def test_anchors_are_exact_whatever_the_head_runs_in() -> None:
    """torchvision rounds them to the type of the features, and keeps them so."""
    views = batch_of_views(2).views[0]
    model = detector(retinanet()).eval()
    exact = model(views).anchors[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(views)
    assert output.logits.dtype == torch.bfloat16
    assert torch.equal(output.anchors[0], exact) and torch.equal(model(views).anchors[0], exact)
    losses = output.label_losses(batch_of_views(2).labels)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def correlation_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return DIST of probabilities, beta = gamma = 1, through numpy."""
    losses = 0.0
    for own, other in ((ours, theirs), (ours.T, theirs.T)):
        correlations = []
        for a, b in zip(own.double().numpy(), other.double().numpy(), strict=True):
            correlations.append(np.corrcoef(a, b)[0, 1])
        losses += 1 - np.mean(correlations)
    return torch.tensor(losses)


def test_anchors_of_other_sizes_make_another_layout() -> None:
    layout = detector(retinanet()).layout
    assert detector(retinanet(seed=1)).layout == layout
    other = detector(retinanet(sides=(12, 20))).layout
    assert isinstance(layout, Pyramid) and isinstance(other, Pyramid)
    assert layout != other and not layout.holds_alike(other)
    assert replace(layout, anchor_boxes="") == replace(other, anchor_boxes="")


def test_of_an_ssd_each_anchor_has_a_softmax_and_a_place_is_a_row() -> None:
    batch = batch_of_views()
    student = detector(ssd(seed=1)).eval()
    teacher = detector(ssd(seed=2)).eval()
    with torch.no_grad():
        output = student(batch.views[0])
        teacher_output = teacher(batch.views[0])
    layout = output.layout
    assert layout == Pyramid(((8, 8), (4, 4)), (4, 6), "softmax")
    assert (
        output.logits.shape == (6, 8 * 8 * 4 + 4 * 4 * 6, 4)
        and student.layout == output.exact_layout()
    )
    soft_targets = by_segment(teacher_output.logits, layout)
    terms = Detection().terms(
        open_loss("dist:tau=2,beta=1,gamma=1"),
        output,
        soft_targets,
        batch.labels,
        label_smoothing=0.0,
    )
    expected = torch.zeros(())
    for logits, teacher_logits, num_anchors in zip(
        layout.split(output.logits), layout.split(teacher_output.logits), (4, 6), strict=True
    ):
        rows = []
        for values in (logits, teacher_logits):
            by_anchor = values.flatten(0, 1) / 2
            rows.append(by_anchor.softmax(-1).reshape(-1, num_anchors * 4))
        expected = expected + 4 * correlation_loss(*rows)
    torch.testing.assert_close((terms["inter"] + terms["intra"]).double(), expected.double())


@pytest.mark.parametrize("make", [faster_rcnn, mask_rcnn])
def test_of_two_stages_the_students_box_head_runs_on_the_teachers_proposals(make: Any) -> None:
    batch = batch_of_views()
    student = detector(make(seed=1, proposals=20)).eval()
    teacher = detector(make(seed=2)).eval()
    with torch.no_grad():
        output = student(batch.views[0])
        given = teacher.teacher_logits(teacher(batch.views[0]), batch.labels)
    assert teacher.layout == Proposals(12) and given.boxes is not None
    assert given.values.shape == (6, 12, 4) and given.boxes.counts.max() <= 12
    loss = open_loss("dist:tau=1,beta=1,gamma=1")
    soft_targets = by_segment(given.values, teacher.layout, given.boxes)
    terms = Detection().terms(loss, output, soft_targets, batch.labels, label_smoothing=0.0)
    rows = []
    teacher_rows = []
    heads: Any = student.module.roi_heads
    for view in range(6):
        count = int(given.boxes.counts[view])
        features = {name: level[view : view + 1] for name, level in output.features.items()}
        boxes = [given.boxes.places[view, :count]]
        pooled = heads.box_roi_pool(features, boxes, [(64, 64)])
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        rows.append(logits.softmax(-1).detach())
        teacher_rows.append(given.values[view, :count].softmax(-1))
    expected = correlation_loss(torch.cat(rows), torch.cat(teacher_rows))
    both = (terms["inter"] + terms["intra"]).detach().double()
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)


def test_a_teachers_proposals_begin_with_the_objects_of_the_labels() -> None:
    batch = batch_of_views()
    teacher = detector(faster_rcnn()).eval()
    with torch.no_grad():
        output = teacher(batch.views[0])
        given = teacher.teacher_logits(output, batch.labels)
    assert given.boxes is not None
    for view, target in enumerate(targets_of(batch.labels)):
        num_objects = len(target["boxes"])
        places = given.boxes.places[view, : int(given.boxes.counts[view])]
        assert torch.equal(places[:num_objects], target["boxes"])
        own = output.proposals[view][: len(places) - num_objects]
        assert torch.equal(places[num_objects:], own)
        assert not given.boxes.places[view, len(places) :].any()
    again = output.logits_at(given.boxes)
    assert torch.equal(again.values, given.values)


@pytest.mark.parametrize("make", [retinanet, ssd])
def test_at_the_teachers_positions_only_those_where_it_is_surest_are_compared(make: Any) -> None:
    batch = batch_of_views(2)
    output = detector(make(seed=1))(batch.views[0])
    layout = output.layout
    teacher_logits = 3 * torch.randn_like(output.logits)
    soft_targets = by_segment(teacher_logits, layout)
    spec = "kl:tau=1,positions=0.1"
    terms = Detection().terms(
        open_loss(spec), output, soft_targets, batch.labels, label_smoothing=0.0
    )
    expected = torch.zeros(())
    parts = zip(
        layout.segments, layout.split(output.logits), layout.split(teacher_logits), strict=True
    )
    for segment, own, theirs in parts:
        num_anchors = segment.shape[2]
        own_places = own.reshape(-1, num_anchors, own.shape[-1])
        their_places = theirs.reshape(-1, num_anchors, own.shape[-1])
        if layout.activation == "softmax":
            scores = their_places.softmax(-1)[..., 1:]
            divergences = kl_of_softmax(own_places, their_places)
        else:
            scores = their_places.sigmoid()
            divergences = kl_of_sigmoid(own_places, their_places)
        best = scores.flatten(1).amax(1)
        places = best.argsort(descending=True)[: -(-len(best) // 10)]
        expected = expected + divergences.flatten(1).sum(1)[places].mean()
    torch.testing.assert_close(terms["kl"], expected, rtol=1e-4, atol=1e-5)


def kl_of_softmax(own: Tensor, theirs: Tensor) -> Tensor:
    return theirs.softmax(-1) * (theirs.log_softmax(-1) - own.log_softmax(-1))


def kl_of_sigmoid(own: Tensor, theirs: Tensor) -> Tensor:
    p = theirs.sigmoid()
    q = own.sigmoid()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def test_the_layout_says_levels_and_anchors() -> None:
    layout = detector(retinanet(anchors=2)).layout
    assert isinstance(layout, Pyramid)
    assert replace(layout, anchor_boxes="") == Pyramid(((8, 8), (4, 4)), (2, 2))
    assert detector(fcos()).layout == Pyramid(((8, 8), (4, 4)), (1, 1))


def test_sigmoid_kl_is_the_divergence_of_each_class_by_itself() -> None:
    batch = batch_of_views(2)
    output = detector(fcos(seed=1))(batch.views[0])
    teacher_logits = torch.randn_like(output.logits)
    soft_targets = by_segment(teacher_logits, output.layout)
    loss = open_loss("kl:tau=2")
    terms = Detection().terms(loss, output, soft_targets, batch.labels, label_smoothing=0.0)
    expected = torch.zeros((), dtype=torch.float64)
    for own, theirs in zip(
        output.layout.split(output.logits), output.layout.split(teacher_logits), strict=True
    ):
        p = torch.sigmoid(theirs.double() / 2)
        q = torch.sigmoid(own.double() / 2)
        divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        expected = expected + 4 * divergence.sum(-1).mean()
    torch.testing.assert_close(terms["kl"].double(), expected, rtol=1e-5, atol=1e-6)


def test_views_without_an_object_and_crowds_have_losses_too() -> None:
    batch = batch_of_views(1)
    assert (batch.labels.first < 0).all()
    losses = detector(retinanet())(batch.views[0]).label_losses(batch.labels)
    assert all(torch.isfinite(loss) for loss in losses.values())
    crowded = batch_of_views(4).labels
    assert crowded.objects is not None
    crowded.objects.is_crowd[:] = True
    assert [len(view["boxes"]) for view in targets_of(crowded)] == [0] * 4


def targets_of(labels: Labels) -> list[dict[str, Tensor]]:
    from kdcache.targets.boxes import torchvision_targets

    return torchvision_targets(labels)


class Misplaced(nn.Module):
    """A detector whose layout has more positions than its logits."""

    def forward(self, images: Tensor) -> PyramidOutput:
        layout = Pyramid(((8, 8), (4, 4)), (1, 1))
        return PyramidOutput(torch.randn(len(images), 64, 3), layout)


def test_what_is_no_loss_or_detector_is_refused() -> None:
    task = Detection()
    for spec in ("dkd", "nkd", "cwd", "dist:ignore_masked=true"):
        with pytest.raises(UsageError, match="which the positions of a detector have not"):
            task.check(open_loss(spec), spec, label_smoothing=0.0)
    for share in ("0", "1.5"):
        with pytest.raises(UsageError, match="must be above 0 and at most 1"):
            open_loss(f"dist:positions={share}")
    for other in (Classification(), Segmentation()):
        with pytest.raises(UsageError, match="leave positions out: this data is not"):
            spec = "dist:positions=0.5"
            other.check(open_loss(spec), spec, label_smoothing=0.0)
    with pytest.raises(UsageError, match="forgets how sure a detector is"):
        spec = "dist:standardize=true"
        task.check(open_loss(spec), spec, label_smoothing=0.0)
    for text, message in (
        ("fcos_resnet50_fpn,weight_backbone=DEFAULT", "unknown option .* mean 'weights_backbone'"),
        ("fcos_resnet50_fpn,input_sise=8", r"did you mean 'input_size'\? \(known: center_samp"),
        ("fcos_resnet50_fpn,backbone=resnet18", r"unknown option of model .* 'backbone'"),
        ("fcos_resnet50_fpn,min_size=100", "min_size is of the detector's own resizing, which is"),
        ("fasterrcnn_resnet50_fpn,rpn=1", r"all in docs/reference/detection.md; with 'rpn' in it"),
        ("lraspp_mobilenet_v3_large", "is of segmentation, and one of detection is wanted"),
    ):
        with pytest.raises(UsageError, match=message):
            open_model(f"torchvision:{text}", classes=3, recipe=RECIPE, task="detection")
    with pytest.raises(UsageError, match=r"label_smoothing is 0\.1; a detector's losses have none"):
        task.check(open_loss("ce"), "ce", label_smoothing=0.1)
    with pytest.raises(ModelError, match=r"gives float32 .*; detectors that can be taken are"):
        detector(nn.Flatten())
    with pytest.raises(ModelError, match=r"layout for 1 views is \[1, 80, classes\]"):
        detector(Misplaced())
    with pytest.raises(ModelError, match="gives 4 classes, and 3 are asked for"):
        detector(retinanet(classes=4))


def test_labels_that_cannot_be_meant_are_noted() -> None:
    task = Detection()
    nothing = np.zeros(0, np.int64)
    assert task.label_notes([nothing] * 3, 3, None) == []
    assert "hold no object" in task.label_notes([nothing] * 4, 3, None)[0]
    both = [np.array([0, 1])] * 60
    assert "class 2 (blue) never occurs" in task.label_notes(both, 3, ["r", "g", "blue"])[0]


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("ssd300_vgg16", 0.0005),
        ("ssdlite320_mobilenet_v3_large", 0.01),
        ("fcos_resnet50_fpn", 0.01),
        ("fasterrcnn_mobilenet_v3_large_fpn", 0.01),
    ],
)
def test_an_ssd_without_norms_wants_a_lower_rate(name: str, rate: float) -> None:
    module = models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    preprocessing = Preprocessing(300, (0.5,), (0.25,))
    assert DetectionModel(module, preprocessing, f"torchvision:{name}").student_rate == rate
