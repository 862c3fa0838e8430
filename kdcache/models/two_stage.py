"""Two-stage detectors: class logits of each proposal.

A student cannot be compared with a teacher at its own proposals, which change with every step and
are nowhere in a cache. A cache holds the teacher's proposals, and the student's box head is run on
these as well.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.models.detector_output import DetectorOutput, as_detections
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import MOST_PROPOSALS, Boxes, Proposals
from kdcache.shapes import Detections, Labels, Logits, Scalar, ViewLogits
from kdcache.soft_targets import SegmentTargets, SoftTargets
from kdcache.targets.boxes import torchvision_targets


@dataclass(frozen=True, eq=False)
class RegionOutput(DetectorOutput):
    """What a Faster R-CNN gives before its proposals are chosen; of a Mask R-CNN the masks are left
    out."""

    detector: Any
    features: dict[str, Tensor]
    """The maps of the backbone, by level."""
    objectness: list[Tensor]
    """What the first stage gives, by level, `[views, anchors, height, width]`."""
    deltas: list[Tensor]
    """How it moves its anchors, by level, `[views, 4 * anchors, height, width]`."""
    anchors: list[Tensor]
    """Of each view, float32 `[anchors, 4]`, in pixels."""
    layout: Proposals
    view_size: tuple[int, int]
    autocast: Callable[[], AbstractContextManager[Any]]
    """What the forward pass ran in."""

    @cached_property
    def proposals(self) -> list[Tensor]:
        """The detector's own proposals in each view, float32 `[proposals, 4]`, the surest first;
        without gradient."""
        rpn = self.detector.rpn
        objectness, deltas = self._regions
        moved = rpn.box_coder.decode(deltas.detach(), self.anchors)
        by_view = moved.view(len(self.anchors), -1, 4)
        counts = [level[0].numel() for level in self.objectness]
        boxes, _ = rpn.filter_proposals(by_view, objectness, self._view_sizes, counts)
        return list(boxes)

    @property
    def logits(self) -> ViewLogits:  # type: ignore[override]
        """Class logits at its own proposals, `[views, count, row width]`, zeros where a view has
        fewer."""
        rows, _ = self._at_own_proposals
        return _by_view(rows, self._own_boxes, self.layout.count).values

    def teacher_logits(self, labels: Labels) -> TeacherLogits:
        """Return the logits at the objects of the labels and at the surest proposals, as many as
        the layout has, and where these are."""
        boxes = []
        targets = torchvision_targets(labels)
        for target, own in zip(targets, self.proposals, strict=True):
            with_objects = torch.cat([target["boxes"].to(own), own])
            boxes.append(with_objects[: self.layout.count])
        return _by_view(self._box_head(boxes)[0], boxes, self.layout.count)

    def logits_at(self, boxes: Boxes) -> TeacherLogits:
        """Return the logits at given boxes."""
        given = _list_of(boxes)
        return _by_view(self._box_head(given)[0], given, boxes.places.shape[1])

    def beside(self, teacher: SoftTargets) -> Iterator[tuple[Logits, SoftTargets]]:
        """Yield the logits at the teacher's proposals.

        Raises:
            ModelError: the soft targets are not those of proposals.
        """
        if not isinstance(teacher, SegmentTargets) or teacher.boxes is None:
            raise ModelError("a two-stage student needs a teacher's proposals, with their boxes")
        assert teacher.counts is not None
        boxes = _list_of(Boxes(teacher.boxes, teacher.counts))
        logits, _ = self._box_head(boxes)
        yield logits, teacher.segments[0]

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return `DetectorOutput.label_losses`: of both stages, on boxes that torchvision draws at
        random from the proposals."""
        from torchvision.models.detection.roi_heads import fastrcnn_loss  # noqa: PLC0415

        heads = self.detector.roi_heads
        targets = torchvision_targets(labels, has_background=True)
        losses = self._region_losses(targets)
        for target in targets:
            target["masks"] = target["boxes"]  # which are asked for, and not looked at
        boxes, _, classes, moves = heads.select_training_samples(list(self.proposals), targets)
        logits, own_moves = self._box_head(boxes)
        classifier, box_reg = fastrcnn_loss(logits, own_moves, classes, moves)
        losses["loss_classifier"] = classifier
        losses["loss_box_reg"] = box_reg
        return losses

    def detections(self) -> list[Detections]:
        """Return `DetectorOutput.detections`."""
        logits, moves = self._at_own_proposals
        boxes, scores, classes = self.detector.roi_heads.postprocess_detections(
            logits, moves, self._own_boxes, self._view_sizes
        )
        tables = []
        for place, of_view in enumerate(boxes):
            table = {"boxes": of_view, "scores": scores[place], "labels": classes[place]}
            tables.append(table)
        return as_detections(tables, has_background=True)

    @property
    def _view_sizes(self) -> list[tuple[int, int]]:
        return [self.view_size] * len(self.anchors)

    @property
    def _own_boxes(self) -> list[Tensor]:
        return [boxes[: self.layout.count] for boxes in self.proposals]

    @cached_property
    def _at_own_proposals(self) -> tuple[Logits, Tensor]:
        return self._box_head(self._own_boxes)

    @cached_property
    def _regions(self) -> tuple[Tensor, Tensor]:
        """What the first stage gives of all anchors, view by view: float32 `[views * anchors, 1]`
        and `[views * anchors, 4]`."""
        from torchvision.models.detection.rpn import concat_box_prediction_layers  # noqa: PLC0415

        objectness = [level.float() for level in self.objectness]
        deltas = [level.float() for level in self.deltas]
        joined: tuple[Tensor, Tensor] = concat_box_prediction_layers(objectness, deltas)
        return joined

    def _region_losses(self, targets: list[dict[str, Tensor]]) -> dict[str, Scalar]:
        rpn = self.detector.rpn
        objectness, deltas = self._regions
        classes, boxes = rpn.assign_targets_to_anchors(self.anchors, targets)
        moves = rpn.box_coder.encode(boxes, self.anchors)
        loss_objectness, loss_moves = rpn.compute_loss(objectness, deltas, classes, moves)
        return {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_moves}

    def _box_head(self, boxes: list[Tensor]) -> tuple[Logits, Tensor]:
        """Return the class logits at boxes of the views, float32 `[boxes, row width]`, view by
        view, and how the second stage would move them."""
        heads = self.detector.roi_heads
        with self.autocast():
            pooled = heads.box_roi_pool(self.features, boxes, self._view_sizes)
            logits, moves = heads.box_predictor(heads.box_head(pooled))
        return logits.float(), moves.float()


def two_stage_output(detector: Any, images: Tensor) -> RegionOutput | None:
    """Return what a two-stage detector gives of normalised images; None if it is another model."""
    from torchvision.models.detection import FasterRCNN  # noqa: PLC0415
    from torchvision.models.detection.image_list import ImageList  # noqa: PLC0415

    if not isinstance(detector, FasterRCNN):
        return None
    height, width = images.shape[2:]
    features = detector.backbone(images)
    if isinstance(features, Tensor):
        features = {"0": features}
    levels = list(features.values())
    rpn = detector.rpn
    objectness, deltas = rpn.head(levels)
    # in float32: a generator rounds its anchors, for good, to the type of what it is given
    shapes = [level.new_empty(level.shape, dtype=torch.float32) for level in levels]
    image_list = ImageList(images, [(height, width)] * len(images))
    anchors = rpn.anchor_generator(image_list, shapes)
    layout = Proposals(min(rpn._post_nms_top_n["testing"], MOST_PROPOSALS))
    return RegionOutput(
        detector,
        features,
        objectness,
        deltas,
        anchors,
        layout,
        (height, width),
        _autocast_now(images.device),
    )


def _by_view(rows: Logits, boxes: list[Tensor], most: int) -> TeacherLogits:
    """Return rows of all views' boxes with as many places a view as it may have boxes."""
    shape = (len(boxes), most)
    values = rows.new_zeros(*shape, rows.shape[-1])
    places = rows.new_zeros(*shape, 4)
    counts = [len(of_view) for of_view in boxes]
    for place, part in enumerate(torch.split(rows, counts)):
        values[place, : len(part)] = part
        places[place, : len(part)] = boxes[place]
    return TeacherLogits(values, Boxes(places, torch.tensor(counts, device=rows.device)))


def _autocast_now(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes a context of the precision that is on now."""
    kind = device.type
    return partial(
        torch.autocast,
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
    )


def _list_of(boxes: Boxes) -> list[Tensor]:
    """Return the boxes of each view, without the places that it does not use."""
    counts = boxes.counts.tolist()
    return [places[:count] for places, count in zip(boxes.places, counts, strict=True)]
