"""One-stage object detectors: class logits for each anchor at each place of a feature pyramid.

A detector is torchvision's `RetinaNet` or `FCOS`, or a subclass. Its parts are run one by one: its
own resizing is left out, since it draws sizes and pads to the largest view of a batch, so that
logits would depend on the views beside them. A recipe gives views of one size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.models.vision_model import VisionModel, kind_text
from kdcache.positions import Layout, Pyramid
from kdcache.shapes import Detections, Labels, Scalar, ViewLogits, Views
from kdcache.targets.boxes import torchvision_targets

_FAMILIES = "torchvision's RetinaNet and FCOS"


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a detector gives of a batch of views, before boxes are chosen."""

    detector: Any
    parts: dict[str, Tensor]
    """What its head gives, by torchvision's names, each `[views, positions, ...]`."""
    anchors: list[Tensor]
    """Of each view, float32 `[positions, 4]`, in pixels."""
    layout: Pyramid
    view_size: tuple[int, int]

    @property
    def logits(self) -> ViewLogits:
        """Class logits, `[views, positions, classes]`, level by level, the anchors of a place side
        by side."""
        return self.parts["cls_logits"]

    def label_losses(self, labels: Labels) -> dict[str, Scalar]:
        """Return the detector's own losses, by torchvision's names.

        Boxes of crowds are left out. They are computed in float32, whatever the head ran in.
        """
        from torchvision.models.detection import FCOS  # noqa: PLC0415

        arguments: list[Any] = [torchvision_targets(labels), self._float_parts(), self.anchors]
        if isinstance(self.detector, FCOS):
            arguments.append(self._level_sizes())
        return dict(self.detector.compute_loss(*arguments))

    def detections(self) -> list[Detections]:
        """Return the boxes that the detector finds in each view, after its own suppression."""
        sizes = self._level_sizes()
        parts = {}
        for name, values in self._float_parts().items():
            parts[name] = list(torch.split(values, sizes, dim=1))
        anchors = [list(torch.split(of_view, sizes)) for of_view in self.anchors]
        view_sizes = [self.view_size] * len(anchors)
        tables = self.detector.postprocess_detections(parts, anchors, view_sizes)
        return [Detections(table["boxes"], table["scores"], table["labels"]) for table in tables]

    def _float_parts(self) -> dict[str, Tensor]:
        return {name: values.float() for name, values in self.parts.items()}

    def _level_sizes(self) -> list[int]:
        return [segment.num_positions for segment in self.layout.segments]


class DetectionModel(VisionModel):
    """A one-stage detector."""

    def forward(self, views: Views) -> HeadOutput:  # type: ignore[override]
        """Return what the head gives.

        Raises:
            ModelError: the module is no one-stage detector of torchvision.
        """
        from torchvision.models.detection.image_list import ImageList  # noqa: PLC0415

        detector: Any = self.module
        _require_one_stage(detector, self.spec)
        images = self._normalised(views)
        height, width = views.shape[2:]
        features = _levels(detector.backbone(images))
        parts = detector.head(features)
        image_list = ImageList(images, [(height, width)] * len(views))
        # in float32: a generator rounds its anchors, for good, to the type of what it is given
        shapes = [level.new_empty(level.shape, dtype=torch.float32) for level in features]
        anchors = detector.anchor_generator(image_list, shapes)
        layout = _pyramid(features, parts, self.spec)
        return HeadOutput(detector, parts, anchors, layout, (height, width))

    def layout_of(self, output: HeadOutput) -> Layout:
        """Return the levels and anchors of the head."""
        return output.layout


def _require_one_stage(detector: Any, spec: str) -> None:
    from torchvision.models.detection import FCOS, RetinaNet  # noqa: PLC0415

    if not isinstance(detector, FCOS | RetinaNet):
        raise ModelError(
            f"model {spec} is {kind_text(detector)}, and its data is for detection; detectors that"
            f" can be taken are {_FAMILIES}, and their subclasses"
        )


def _levels(features: Any) -> list[Tensor]:
    """Return the feature maps of the levels, the finest first."""
    if isinstance(features, Tensor):
        return [features]
    return list(features.values())


def _pyramid(features: list[Tensor], parts: dict[str, Tensor], spec: str) -> Pyramid:
    """Return where the positions of the head's logits are.

    Raises:
        ModelError: the head gives no class logits, or not as many at each place.
    """
    levels = []
    num_places = 0
    for level in features:
        height, width = level.shape[2:]
        levels.append((height, width))
        num_places += height * width
    logits = parts.get("cls_logits")
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise ModelError(
            f"model {spec} has a head without cls_logits, [views, positions, classes]; one-stage"
            f" detectors that can be taken are {_FAMILIES}"
        )
    num_anchors, rest = divmod(logits.shape[1], num_places)
    if rest or num_anchors < 1:
        raise ModelError(
            f"model {spec} gives {logits.shape[1]} positions for {num_places} places of its"
            " levels; it must have as many anchors at each"
        )
    return Pyramid(tuple(levels), num_anchors)
