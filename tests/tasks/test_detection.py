"""Detection: a detector run in parts gives what torchvision's gives as a whole, and the loss against
the teacher is the published one."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import fcos, rectangles, retinanet
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from kdcache.errors import ModelError, UsageError
from kdcache.losses import open_loss
from kdcache.models.detection import DetectionModel, HeadOutput
from kdcache.models.model import open_model
from kdcache.models.wrapping import tried_model
from kdcache.positions import Pyramid
from kdcache.shapes import Labels
from kdcache.soft_targets import by_segment
from kdcache.sources import as_source
from kdcache.tasks.detection import Detection
from kdcache.views import Recipe, ViewDataset

TABLE = {
    "size": 64,
    "transforms": [
        {"name": "RandomHorizontalFlip"},
        {"name": "kdcache.Letterbox", "size": "input", "fill": [114, 114, 114]},
    ],
}
RECIPE = Recipe("boxes", TABLE)


def batch_of_views(num_views: int = 6) -> Any:
    source = as_source(rectangles())
    dataset = ViewDataset(source, RECIPE, np.arange(len(source)), sizes=[64])
    return dataset.batch([(row, 3) for row in range(num_views)])


def detector(module: nn.Module) -> DetectionModel:
    model = tried_model(module, RECIPE, classes=3, mean=0.5, std=0.25, task="detection")
    assert isinstance(model, DetectionModel)
    return model


class Untouched(nn.Module):
    """In the place of torchvision's own resizing: images as they are."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return ImageList(torch.stack(images), sizes), targets

    def postprocess(self, result: Any, *sizes: Any) -> Any:
        return result


@pytest.mark.parametrize("module", [retinanet(), retinanet(anchors=1), fcos()])
def test_its_losses_and_detections_are_those_of_torchvisions_whole_detector(
    module: nn.Module,
) -> None:
    batch = batch_of_views()
    model = detector(module).eval()
    output = model(batch.views[0])
    losses = output.label_losses(batch.labels)
    detections = output.detections()
    images = [*torch.sub(batch.views[0], model.mean).div(model.std)]
    module.transform = Untouched()
    assert batch.labels.objects is not None
    targets = []
    for classes, boxes in zip(batch.labels.first, batch.labels.objects.boxes, strict=True):
        targets.append({"boxes": boxes[classes >= 0], "labels": classes[classes >= 0]})
    expected_detections = module.eval()(images)
    for detection, expected in zip(detections, expected_detections, strict=True):
        assert torch.equal(detection.boxes, expected["boxes"])
        assert torch.equal(detection.scores, expected["scores"])
        assert torch.equal(detection.classes, expected["labels"])
    expected_losses = module.train()(images, targets)
    assert losses.keys() == expected_losses.keys()
    for name, expected in expected_losses.items():
        assert torch.equal(losses[name], expected), name


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
    for height, width in output.layout.levels:
        num_positions = height * width * output.layout.anchors
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


def test_the_layout_says_levels_and_anchors() -> None:
    assert detector(retinanet(anchors=2)).layout == Pyramid(((8, 8), (4, 4)), 2)
    assert detector(fcos()).layout == Pyramid(((8, 8), (4, 4)), 1)


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


def test_what_is_no_loss_or_detector_is_refused() -> None:
    task = Detection()
    for spec in ("dkd", "nkd", "cwd", "dist:ignore_masked=true"):
        with pytest.raises(UsageError, match="which the positions of a detector have not"):
            task.check(open_loss(spec), spec, label_smoothing=0.0)
    with pytest.raises(UsageError, match="standardizes rows for a softmax"):
        spec = "dist:standardize=true"
        task.check(open_loss(spec), spec, label_smoothing=0.0)
    with pytest.raises(UsageError, match="unknown option of model"):
        open_model(
            "torchvision:fcos_resnet50_fpn,weight_backbone=DEFAULT",
            classes=3,
            recipe=RECIPE,
            task="detection",
        )
    with pytest.raises(UsageError, match=r"label_smoothing is 0\.1; a detector's losses have none"):
        task.check(open_loss("ce"), "ce", label_smoothing=0.1)
    with pytest.raises(
        ModelError,
        match="is a Flatten, and its data is for detection; detectors that can be taken are",
    ):
        detector(nn.Flatten())
    with pytest.raises(ModelError, match="gives 4 classes, and 3 are asked for"):
        detector(retinanet(classes=4))


def test_labels_that_cannot_be_meant_are_noted() -> None:
    task = Detection()
    nothing = np.zeros(0, np.int64)
    assert task.label_notes([nothing] * 3, 3, None) == []
    assert "hold no object" in task.label_notes([nothing] * 4, 3, None)[0]
    both = [np.array([0, 1])] * 60
    assert "class 2 (blue) never occurs" in task.label_notes(both, 3, ["r", "g", "blue"])[0]
