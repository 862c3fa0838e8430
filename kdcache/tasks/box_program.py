"""A detector of torchvision as it is exported: its own code, compiled by TorchScript.

The detector's own resizing is left out, as kdcache leaves it out: images come at the size that it
is to see.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from kdcache.errors import ModelError
from kdcache.models.vision_model import VisionModel
from kdcache.shapes import Views
from kdcache.tasks.programs import Program


class _AsTheyAre(nn.Module):
    """Stands in the place of a detector's own transform: normalises images, and resizes none."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Return images as the detector takes them; of targets there are none."""
        batch = (torch.stack(images) - self.mean) / self.std
        sizes: list[tuple[int, int]] = []
        for image in images:
            sizes.append((image.shape[1], image.shape[2]))
        return ImageList(batch, sizes), targets

    @torch.jit.export
    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Return boxes as they are, in pixels of the image."""
        return result


class ExportedDetector(nn.Module):
    """A detector from pixels to boxes, to be compiled; its images are normalised inside."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.detector = copy.deepcopy(model.module)
        self.detector.transform = _AsTheyAre(model)
        self.first_class = int(model.layout.has_background)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return `boxes`, `scores` and `classes` of each image, of pixels from 0 to 255."""
        # compiled, a detector gives losses, too
        _, tables = self.detector(images.unbind())
        results: list[dict[str, Tensor]] = []
        for table in tables:
            results.append(
                {
                    "boxes": table["boxes"],
                    "scores": table["scores"],
                    "classes": table["labels"] - self.first_class,
                }
            )
        return results


def box_program(model: VisionModel) -> Program:
    """Return a detector of torchvision as it is exported.

    Raises:
        ModelError: it is another one.
    """
    if not isinstance(model.module, RetinaNet | FCOS | SSD | FasterRCNN):
        raise ModelError(
            f"model {model.spec} is a detector of one's own, and those that are exported are"
            " torchvision's RetinaNet, FCOS, SSD, Faster R-CNN and Mask R-CNN; export its parts"
            " yourself"
        )

    def expected(images: Views) -> list[Tensor]:
        with _all_boxes(model.module):
            tensors: list[Tensor] = []
            for of_image in model(images).detections():
                tensors += of_image
            return tensors

    return Program(
        module=ExportedDetector(model),
        output="boxes",
        gives="of each image boxes [boxes, 4], scores [boxes] and classes [boxes]",
        expected=expected,
        takes_any_size=True,
        is_scripted=True,
        open_up=lambda program: _take_all_boxes(program.detector),
    )


def _chooser(detector: Any) -> Any:
    """Return the part of a detector that leaves out boxes with low scores."""
    return getattr(detector, "roi_heads", detector)


def _take_all_boxes(detector: Any) -> None:
    """Let a detector give boxes of any score: of noise there would be none to compare."""
    _chooser(detector).score_thresh = 0.0


@contextmanager
def _all_boxes(detector: Any) -> Iterator[None]:
    """Let a detector give boxes of any score in the block."""
    chooser = _chooser(detector)
    least = chooser.score_thresh
    _take_all_boxes(detector)
    try:
        yield
    finally:
        chooser.score_thresh = least
