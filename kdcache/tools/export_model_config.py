"""What `export-model` does, checked without torch."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from kdcache.config.names import choose
from kdcache.errors import KdcacheError
from kdcache.runtime.files import require_writable
from kdcache.tasks.export_forms import ENDINGS, ONNX, require_exportable
from kdcache.tools.saved_classes import checked_saved, known_classes, known_task


@dataclass(frozen=True, kw_only=True)
class ExportModelConfig:
    """What `export-model` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    out: str
    """The file that is written: `.onnx`, `.pt2` (torch.export) or `.pt` (TorchScript)."""
    task: str | None = None
    """Of the model; by default what its weights say, else `classification`."""
    logits: bool = False
    """Whether the model gives logits, and not probabilities."""
    classes: str | None = None
    """Their number, or a text file with a name on each line; by default what the weights say."""
    recipe: str | None = None
    """Of the images, which says their size where the weights do not; by default the run's recipe
    of evaluation, else one for the task."""

    def __post_init__(self) -> None:
        choose(self.ending, ENDINGS, f"ending of {self.out}")
        require_writable(Path(self.out))

    @property
    def ending(self) -> str:
        """What the name of the file ends with, in lower case."""
        return Path(self.out).suffix.lower()


def check_specs(config: ExportModelConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there; or what writes the file is not
            installed.
    """
    saved = checked_saved(config.model, task=config.task, recipe=config.recipe)
    task = known_task(saved, config.task)
    if task is not None:
        require_exportable(task, config.ending, logits=config.logits)
    known_classes(saved, config.classes)
    if config.ending == ONNX:
        require_onnx()


def require_onnx() -> None:
    """Raise a KdcacheError if what writes ONNX is not installed."""
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise KdcacheError(
                f"an .onnx file needs {name}; pip install 'kdcache[onnx]', or write a .pt2 file"
            )
