"""Object detectors: torchvision's families, and subclasses of them."""

from typing import Any

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from kdcache.errors import ModelError
from kdcache.models.detector_output import DetectorOutput
from kdcache.models.one_stage import one_stage_output
from kdcache.models.two_stage import two_stage_output
from kdcache.models.vision_model import TeacherLogits, VisionModel, kind_text
from kdcache.positions import Layout
from kdcache.shapes import Labels, Views

_RATE = 0.01
"""The losses of a detector are sums: at the learning rate of classifiers they grow without end."""
_RATE_WITHOUT_NORMS = 0.0005
"""Of an SSD300, whose VGG has no norms: from random weights its loss is no number after three steps
at 0.002, which torchvision's reference has for pretrained ones."""
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, FrozenBatchNorm2d)
_FAMILIES = "torchvision's RetinaNet, FCOS, SSD, Faster R-CNN and Mask R-CNN"


class DetectionModel(VisionModel):
    """An object detector."""

    def forward(self, views: Views) -> DetectorOutput:  # type: ignore[override]
        """Return what the detector gives, before boxes are chosen.

        Raises:
            ModelError: the module is no detector that can be taken, or gives other logits than it
                says.
        """
        images = self._normalised(views)
        output = one_stage_output(self.module, images, self.spec)
        if output is not None:
            return output
        regions = two_stage_output(self.module, images)
        if regions is not None:
            return regions
        return self._own_output(images)

    @property
    def student_rate(self) -> float:
        """The learning rate to begin with for a student of this kind, of SGD and random weights."""
        from torchvision.models.detection.ssd import SSD  # noqa: PLC0415

        has_norms = any(isinstance(part, _NORMS) for part in self.module.modules())
        if isinstance(self.module, SSD) and not has_norms:
            return _RATE_WITHOUT_NORMS
        return _RATE

    def _own_output(self, images: Tensor) -> DetectorOutput:
        """Return what a detector of the user's own gives.

        Raises:
            ModelError: it is something else, or its logits are not at as many positions as it says.
        """
        output = self.module(images)
        if not isinstance(output, DetectorOutput):
            raise ModelError(
                f"model {self.spec} gives {kind_text(output)}, and its data is for detection;"
                f" detectors that can be taken are {_FAMILIES}, and what gives a"
                " kdcache.PyramidOutput"
            )
        shape = tuple(output.logits.shape)
        if len(shape) != 3 or shape[:2] != (len(images), output.layout.num_positions):
            raise ModelError(
                f"model {self.spec} gives logits of shape {shape}; its layout for {len(images)}"
                f" views is [{len(images)}, {output.layout.num_positions}, classes]"
            )
        return output

    def layout_of(self, output: DetectorOutput) -> Layout:
        """Return where the positions of its class logits are."""
        return output.exact_layout()

    def teacher_logits(self, output: Any, labels: Labels) -> TeacherLogits:
        """Return what a cache holds of the output."""
        logits: TeacherLogits = output.teacher_logits(labels)
        return logits
