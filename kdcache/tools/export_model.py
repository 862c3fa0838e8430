"""A saved model as one file that other programs run: ONNX, torch.export or TorchScript."""

import json
from pathlib import Path
from typing import Any

from kdcache.models.weight_facts import weight_facts
from kdcache.models.weight_record import weight_record
from kdcache.runtime.console import say
from kdcache.runtime.files import write_file
from kdcache.shapes import size_text
from kdcache.targets import ClassLabel
from kdcache.tasks import open_task
from kdcache.tasks.export_forms import (
    EXPORTED,
    ONNX,
    SCRIPT,
    endings_of,
    require_exportable,
)
from kdcache.tools.export_model_config import ExportModelConfig, require_onnx
from kdcache.tools.opened_model import model_of_own_classes
from kdcache.tools.program_files import write_program
from kdcache.tools.saved_classes import known_task
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes


def export_model(config: ExportModelConfig) -> dict[str, Any]:
    """Write a saved model with its preprocessing and the names of its classes to one file, and
    return what was written.

    The model takes uint8 `[images, channels, height, width]`, any number of images: of a classifier
    of its own size, of other models of any size that their code allows.

    Returns:
        `model` (its spec), `task`, `out`, `bytes`, `input_size` (channels, height and width, None
        where they may be any), `classes`, `output` (`probabilities`, `logits` or `boxes`), and
        `gives`, which says its shapes.

    Raises:
        UsageError: settings that cannot be meant.
        KdcacheError: a model that cannot be opened, or not be exported; a file that would give
            something else than the model; or what writes the file is not installed.
    """
    saved = find_model(config.model)
    name = known_task(saved, config.task) or ClassLabel.task
    require_exportable(name, config.ending, logits=config.logits)
    if config.ending == ONNX:
        require_onnx()
    training, views = saved_recipes(saved, config.recipe, name)
    opened = model_of_own_classes(saved, config.classes, task=name, training=training)
    model = opened.model.eval()
    model.requires_grad_(False)
    task = open_task(name, align_corners=_is_aligned(saved))
    program = task.program(model, gives_logits=config.logits)
    program.module.eval().requires_grad_(False)
    facts = weight_facts(
        model.preprocessing,
        task=name,
        num_classes=opened.num_classes,
        label_names=tuple(opened.class_names),
    )
    metadata = {
        **weight_record(saved.spec, facts),
        "output": program.output,
        "recipe": json.dumps(views.to_dict()["table"]),
    }
    if config.ending == SCRIPT and EXPORTED in endings_of(name):
        say("note: torch calls TorchScript deprecated; a .pt2 file is what torch.export writes now")
    channels, height, width = facts.input_size
    shape = (channels, height, width)
    file = write_program(program, config.ending, shape=shape, metadata=metadata, spec=saved.spec)
    write_file(Path(config.out), file.data)
    return {
        "model": saved.spec,
        "task": name,
        "out": config.out,
        "bytes": len(file.data),
        "input_size": [channels, None, None] if file.takes_any_size else list(shape),
        "classes": opened.num_classes,
        "output": program.output,
        "gives": program.gives,
    }


def _is_aligned(saved: SavedModel) -> bool:
    """Return how the maps of a model are upsampled; say it if its run sees images otherwise than
    the file will."""
    run = saved.run
    if run is None:
        return False
    if run.eval_window is not None:
        size = size_text(run.eval_window)
        say(f"note: the run sees images through windows of {size}; the file sees them whole")
    return run.align_corners
