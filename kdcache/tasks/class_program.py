"""A classifier as it is exported."""

import torch
from torch import Tensor, nn

from kdcache.models.modules import logits_in
from kdcache.models.vision_model import VisionModel
from kdcache.shapes import Logits, Probabilities, Views
from kdcache.tasks.programs import Program


class ExportedClassifier(nn.Module):
    """A classifier from pixels to probabilities, or logits; its images are normalised inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionModel, *, gives_logits: bool) -> None:
        super().__init__()
        self.module = model.module
        self.gives_logits = gives_logits
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(self, images: Views) -> Logits | Probabilities:
        """Return probabilities, or logits, `[images, classes]`, of pixels from 0 to 255."""
        logits: Tensor = logits_in(self.module((images - self.mean) / self.std))
        if self.gives_logits:
            return logits
        return torch.softmax(logits, dim=1)


def class_program(model: VisionModel, *, gives_logits: bool) -> Program:
    """Return a classifier as it is exported."""

    def expected(images: Views) -> list[Tensor]:
        logits = model(images)
        if gives_logits:
            return [logits]
        return [torch.softmax(logits, dim=1)]

    output = "logits" if gives_logits else "probabilities"
    return Program(
        module=ExportedClassifier(model, gives_logits=gives_logits),
        output=output,
        gives=f"{output}, float32 [as many, {model.num_classes}]",
        expected=expected,
    )
