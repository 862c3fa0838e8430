"""A saved model as one file that other programs run: ONNX, torch.export or TorchScript."""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.models.weight_facts import weight_facts
from kdcache.models.weight_record import weight_record
from kdcache.runtime.console import say
from kdcache.runtime.files import write_file
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Logits, Probabilities, Views, sides
from kdcache.targets import ClassLabel
from kdcache.tools.export_model_config import (
    EXPORTED,
    ONNX,
    SCRIPT,
    ExportModelConfig,
    require_onnx,
)
from kdcache.tools.saved_classes import known_classes, names_for, require_classifier
from kdcache.tools.saved_model import find_model
from kdcache.tools.saved_views import saved_recipes

METADATA_FILE = "kdcache.json"
"""Of .pt2 and .pt files: what is said of the model. In ONNX it is the model's own metadata."""
_TRIED_IMAGES = 2
"""In the example that is traced; torch would take 1 for the only size."""


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
        KdcacheError: a model that cannot be opened, or not be exported; or what writes the file is
            not installed.
    """
    saved = find_model(config.model)
    require_classifier(saved, "export-model")
    if config.ending == ONNX:
        require_onnx()
    training, views = saved_recipes(saved, config.recipe)
    num_classes, names = known_classes(saved, config.classes)
    model = open_model(saved.spec, classes=num_classes, recipe=training, trained=True).eval()
    exported = ExportedClassifier(model, gives_logits=config.logits).eval()
    exported.requires_grad_(False)
    channels = len(model.preprocessing.mean)
    size = sides(model.preprocessing.size)
    images = torch.zeros(_TRIED_IMAGES, channels, *size, dtype=torch.uint8)
    num_classes = exported(images).shape[1]
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
    with _exporting(saved.spec):
        data = _WRITERS[config.ending](exported, images, output, metadata)
    write_file(Path(config.out), data)
    return {
        "model": saved.spec,
        "out": config.out,
        "bytes": len(data),
        "input_size": list(facts.input_size),
        "classes": num_classes,
        "output": output,
    }


def _onnx_bytes(
    model: ExportedClassifier, images: Tensor, output: str, metadata: Mapping[str, str]
) -> bytes:
    import onnx  # noqa: PLC0415

    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        dynamic_shapes=_any_number(),
        input_names=["images"],
        output_names=[output],
        verbose=False,
    )
    assert program is not None, "torch.onnx.export returns a program with dynamo=True"
    content = program.model_proto
    onnx.helper.set_model_props(content, dict(metadata))
    onnx.checker.check_model(content)
    data: bytes = content.SerializeToString()
    return data


def _exported_bytes(
    model: ExportedClassifier, images: Tensor, output: str, metadata: Mapping[str, str]
) -> bytes:
    program = torch.export.export(model, (images,), dynamic_shapes=_any_number())
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def _script_bytes(
    model: ExportedClassifier, images: Tensor, output: str, metadata: Mapping[str, str]
) -> bytes:
    say("note: torch calls TorchScript deprecated; a .pt2 file is what torch.export writes now")
    buffer = io.BytesIO()
    script = torch.jit.trace(model, images)  # type: ignore[no-untyped-call]
    extra_files = {METADATA_FILE: json.dumps(metadata).encode()}
    torch.jit.save(script, buffer, _extra_files=extra_files)
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[ExportedClassifier, Tensor, str, Mapping[str, str]], bytes]] = {
    ONNX: _onnx_bytes,
    EXPORTED: _exported_bytes,
    SCRIPT: _script_bytes,
}


def _any_number() -> dict[str, dict[int, Any]]:
    """Return how torch.export is told that a batch may have any number of images."""
    return {"images": {0: torch.export.Dim("batch", min=1)}}


@contextmanager
def _exporting(spec: str) -> Iterator[None]:
    """Export a model in the block: what torch says against it becomes one line.

    Raises:
        ModelError: its code cannot be exported.
    """
    way_out = "its code may depend on values; write another kind of file, or mend it"
    with (
        warnings.catch_warnings(),
        user_code(f"export of model {spec}", ModelError, way_out=way_out),
    ):
        warnings.simplefilter("ignore")  # of torch about itself
        yield
