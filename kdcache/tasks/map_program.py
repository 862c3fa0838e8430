"""A model of segmentation as it is exported."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcache.models.modules import logits_in
from kdcache.models.segmentation import main_map
from kdcache.models.vision_model import VisionModel
from kdcache.shapes import Views
from kdcache.tasks.map_sizes import upsampled
from kdcache.tasks.programs import Program


class ExportedMaps(nn.Module):
    """A model of segmentation from pixels to a map of probabilities, or logits, as large as the
    image; its images are normalised inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionModel, *, gives_logits: bool, align_corners: bool) -> None:
        super().__init__()
        self.module = model.module
        self.gives_logits = gives_logits
        self.align_corners = align_corners
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(self, images: Views) -> Tensor:
        """Return the main head's probabilities, or logits, `[images, classes, height, width]`, of
        pixels from 0 to 255."""
        maps = main_map(logits_in(self.module((images - self.mean) / self.std)))
        logits = functional.interpolate(
            maps, images.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        if self.gives_logits:
            return logits
        return torch.softmax(logits, dim=1)


def map_program(model: VisionModel, *, gives_logits: bool, align_corners: bool) -> Program:
    """Return a model of segmentation as it is exported; it sees images whole.

    Args:
        model: of segmentation.
        gives_logits: whether it gives logits, and not probabilities.
        align_corners: how maps are upsampled, see `upsampled`.
    """

    def expected(images: Views) -> list[Tensor]:
        height, width = images.shape[2:]
        logits = upsampled(model(images)[:, 0], (height, width), align_corners=align_corners)
        if gives_logits:
            return [logits]
        return [torch.softmax(logits, dim=1)]

    output = "logits" if gives_logits else "probabilities"
    return Program(
        module=ExportedMaps(model, gives_logits=gives_logits, align_corners=align_corners),
        output=output,
        gives=f"{output}, float32 [as many, {model.num_classes}, height, width]",
        expected=expected,
        takes_any_size=True,
    )
