"""A saved model as one file that other programs run: ONNX, torch.export or TorchScript."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.models.weight_facts import weight_facts
from kdcache.models.weight_record import weight_record
from kdcache.runtime.console import say
from kdcache.runtime.files import write_file
from kdcache.shapes import Logits, Probabilities, Views, sides
from kdcache.targets import ClassLabel
from kdcache.tools.export_model_config import (
    ONNX,
    SCRIPT,
    ExportModelConfig,
    require_classifier,
    require_onnx,
)
from kdcache.tools.program_files import write_program
from kdcache.tools.saved_classes import (
    CLASSES_ADVICE,
    known_classes,
    names_for,
)
from kdcache.tools.saved_model import find_model
from kdcache.tools.saved_views import saved_recipes


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
        logits: Tensor = self.module((images - self.mean) / self.std)
        if self.gives_logits:
            return logits
        return torch.softmax(logits, dim=1)


def export_model(config: ExportModelConfig) -> dict[str, Any]:
    """Write a saved model with its preprocessing and the names of its classes to one file, and
    return what was written.

    The model takes uint8 `[images, channels, height, width]`, any number of images of its own size,
    and gives float32 `[images, classes]`.

    Returns:
        `model` (its spec), `out`, `bytes`, `input_size` (channels, height, width), `classes`, and
        `output`, `probabilities` or `logits`.

    Raises:
        UsageError: settings that cannot be meant.
        KdcacheError: a model that cannot be opened, or not be exported; a file that would give
            something else than the model; or what writes the file is not installed.
    """
    saved = find_model(config.model)
    require_classifier(saved)
    if config.ending == ONNX:
        require_onnx()
    training, views = saved_recipes(saved, config.recipe, ClassLabel.task)
    num_classes, names = known_classes(saved, config.classes)
    model = open_model(
        saved.spec,
        classes=num_classes,
        recipe=training,
        trained=True,
        classes_advice=CLASSES_ADVICE,
    )
    exported = ExportedClassifier(model, gives_logits=config.logits).eval()
    exported.requires_grad_(False)
    height, width = sides(model.preprocessing.size)
    shape = (len(model.preprocessing.mean), height, width)
    num_classes = exported(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]
    output = "logits" if config.logits else "probabilities"
    facts = weight_facts(
        model.preprocessing,
        task=ClassLabel.task,
        num_classes=num_classes,
        label_names=tuple(names_for(saved, num_classes, names)),
    )
    metadata = {
        **weight_record(saved.spec, facts),
        "output": output,
        "recipe": json.dumps(views.to_dict()["table"]),
    }
    if config.ending == SCRIPT:
        say("note: torch calls TorchScript deprecated; a .pt2 file is what torch.export writes now")
    data = write_program(
        exported, config.ending, shape=shape, output=output, metadata=metadata, spec=saved.spec
    )
    write_file(Path(config.out), data)
    return {
        "model": saved.spec,
        "out": config.out,
        "bytes": len(data),
        "input_size": list(facts.input_size),
        "classes": num_classes,
        "output": output,
    }
