"""One-stage detectors: class logits of each anchor at each place of a feature pyramid.

The parts of torchvision's RetinaNet, FCOS and SSD are run one by one: their own resizing is left
out, since it draws sizes and pads to the largest view of a batch, so that logits would depend on
the views beside them. A recipe gives views of one size.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.ops import box_iou

from kdcache.errors import ModelError
from kdcache.models.detector_output import DetectorOutput, as_detections
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Pyramid
from kdcache.shapes import Activation, Detections, Labels, Scalar, ViewLogits
from kdcache.soft_targets import SoftTargets, compared_rows
from kdcache.targets.boxes import torchvision_targets

_DIGEST_LENGTH = 16


class PyramidLogits(DetectorOutput):
    """Class logits of every anchor at every place of a pyramid."""

    layout: Pyramid

    def teacher_logits(self, labels: Labels) -> TeacherLogits:
        """Return the logits of all positions."""
        return TeacherLogits(self.logits)

    def beside(self, teacher: SoftTargets) -> Iterator[tuple[Tensor, SoftTargets]]:
        """Yield the rows of each level: one for each place, with all of its anchors, `[places,
        anchors, row width]`."""
        rows = [part.flatten(0, 1) for part in self.layout.split(self.logits)]
        yield from compared_rows(rows, teacher, self.layout)


@dataclass(frozen=True, eq=False)
class PyramidOutput(PyramidLogits):
    """What a one-stage detector of one's own gives: its `forward` takes normalised images, `[views,
    channels, height, width]`, and returns this."""

    logits: ViewLogits
    """Class logits, `[views, positions, row width]`, level by level, line by line, the anchors of a
    place side by side."""
    layout: Pyramid
    """The levels, the anchors at each place, and how logits become probabilities."""
    losses: Callable[[list[dict[str, Tensor]]], Mapping[str, Tensor]] | None = None
    """Gives the detector's own losses by name, which a student needs, of each view's `boxes` and
    `labels` as torchvision's detectors take them."""
    find: Callable[[], list[dict[str, Tensor]]] | None = None
    """Gives each view's `boxes`, `scores` and `labels`, which an evaluation needs."""

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return the losses.

        Raises:
            ModelError: there are none.
        """
        if self.losses is None:
            raise ModelError(
                "this detector gives no losses of its own, which a student needs; give losses to"
                " its PyramidOutput"
            )
        targets = torchvision_targets(labels, has_background=self.layout.has_background)
        return dict(self.losses(targets))

    def detections(self) -> list[Detections]:
        """Return the boxes.

        Raises:
            ModelError: there is nothing that finds them.
        """
        if self.find is None:
            raise ModelError(
                "this detector finds no boxes, which an evaluation needs; give find to its"
                " PyramidOutput"
            )
        return as_detections(self.find(), has_background=self.layout.has_background)


@dataclass(frozen=True, eq=False)
class HeadOutput(PyramidLogits):
    """What a one-stage detector of torchvision gives; as it is, of a RetinaNet."""

    activation: ClassVar[Activation] = "sigmoid"
    detector: Any
    parts: dict[str, Tensor]
    """What its head gives, by torchvision's names, each `[views, positions, ...]`."""
    anchors: list[Tensor]
    """Of each view, float32 `[positions, 4]`, in pixels."""
    layout: Pyramid
    view_size: tuple[int, int]

    @property
    def logits(self) -> ViewLogits:  # type: ignore[override]
        """Class logits, `[views, positions, row width]`, level by level, the anchors of a place
        side by side."""
        return self.parts["cls_logits"]

    def exact_layout(self) -> Pyramid:
        """Return the layout with a digest of the anchors, to a hundredth of a pixel."""
        if max(self.layout.anchors) == 1:
            return self.layout
        hundredths = (100 * self.anchors[0]).round().to("cpu", torch.int64)
        digest = hashlib.sha256(hundredths.numpy().tobytes()).hexdigest()
        return replace(self.layout, anchor_boxes=digest[:_DIGEST_LENGTH])

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return `DetectorOutput.label_losses`."""
        targets = torchvision_targets(labels)
        return dict(self.detector.compute_loss(targets, self._float_parts(), self.anchors))

    def detections(self) -> list[Detections]:
        """Return `DetectorOutput.detections`."""
        sizes = self._level_sizes()
        parts = {}
        for name, values in self._float_parts().items():
            parts[name] = list(torch.split(values, sizes, dim=1))
        anchors = [list(torch.split(of_view, sizes)) for of_view in self.anchors]
        tables = self.detector.postprocess_detections(parts, anchors, self._view_sizes())
        return as_detections(tables, has_background=False)

    def _view_sizes(self) -> list[tuple[int, int]]:
        return [self.view_size] * len(self.anchors)

    def _float_parts(self) -> dict[str, Tensor]:
        return {name: values.float() for name, values in self.parts.items()}

    def _level_sizes(self) -> list[int]:
        return [segment.num_positions for segment in self.layout.segments]


class FcosOutput(HeadOutput):
    """What an FCOS gives."""

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return `DetectorOutput.label_losses`."""
        targets = torchvision_targets(labels)
        losses = self.detector.compute_loss(
            targets, self._float_parts(), self.anchors, self._level_sizes()
        )
        return dict(losses)


class SsdOutput(HeadOutput):
    """What an SSD or SSDlite gives: the classes of an anchor exclude each other, and the background
    is one of them."""

    activation: ClassVar[Activation] = "softmax"

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return `DetectorOutput.label_losses`."""
        targets = torchvision_targets(labels, has_background=True)
        matches = []
        for target, anchors in zip(targets, self.anchors, strict=True):
            matches.append(self._matches(target["boxes"], anchors))
        losses = self.detector.compute_loss(targets, self._float_parts(), self.anchors, matches)
        return dict(losses)

    def detections(self) -> list[Detections]:
        """Return `DetectorOutput.detections`."""
        tables = self.detector.postprocess_detections(
            self._float_parts(), self.anchors, self._view_sizes()
        )
        return as_detections(tables, has_background=True)

    def _matches(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the box of each anchor of a view, -1 where there is none."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, device=anchors.device)
        matches: Tensor = self.detector.proposal_matcher(box_iou(boxes, anchors))
        return matches


def one_stage_output(detector: Any, images: Tensor, spec: str) -> HeadOutput | None:
    """Return what a one-stage detector gives of normalised images; None if it is another model.

    Raises:
        ModelError: its head gives no class logits, or not as many as its anchors.
    """
    from torchvision.models.detection.image_list import ImageList  # noqa: PLC0415

    family = _family(detector)
    if family is None:
        return None
    height, width = images.shape[2:]
    features = _levels(detector.backbone(images))
    parts = detector.head(features)
    image_list = ImageList(images, [(height, width)] * len(images))
    # in float32: a generator rounds its anchors, for good, to the type of what it is given
    shapes = [level.new_empty(level.shape, dtype=torch.float32) for level in features]
    anchors = detector.anchor_generator(image_list, shapes)
    counts = detector.anchor_generator.num_anchors_per_location()
    layout = _pyramid(features, parts, counts, family.activation, spec)
    return family(detector, parts, anchors, layout, (height, width))


def _family(detector: Any) -> type[HeadOutput] | None:
    from torchvision.models.detection import FCOS, RetinaNet  # noqa: PLC0415
    from torchvision.models.detection.ssd import SSD  # noqa: PLC0415

    families = {RetinaNet: HeadOutput, FCOS: FcosOutput, SSD: SsdOutput}
    for cls, family in families.items():
        if isinstance(detector, cls):
            return family
    return None


def _levels(features: Any) -> list[Tensor]:
    """Return the feature maps of the levels, the finest first."""
    if isinstance(features, Tensor):
        return [features]
    return list(features.values())


def _pyramid(
    features: Sequence[Tensor],
    parts: dict[str, Tensor],
    counts: Sequence[int],
    activation: Activation,
    spec: str,
) -> Pyramid:
    """Return where the positions of the head's logits are.

    Raises:
        ModelError: the head gives no class logits, or not as many as its anchors.
    """
    levels = []
    num_positions = 0
    for level, count in zip(features, counts, strict=True):
        height, width = level.shape[2:]
        levels.append((height, width))
        num_positions += height * width * count
    logits = parts.get("cls_logits")
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise ModelError(
            f"model {spec} has a head without cls_logits, [views, positions, classes]; return them"
            " as torchvision's heads do"
        )
    if logits.shape[1] != num_positions:
        raise ModelError(
            f"model {spec} gives logits of {logits.shape[1]} positions, and its anchors are"
            f" {num_positions}; give its head as many anchors as its anchor generator has"
        )
    return Pyramid(tuple(levels), tuple(counts), activation)
