"""What `export-model` does, checked without torch."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from kdcache.config.spec import choose
from kdcache.errors import KdcacheError, UsageError
from kdcache.runtime.files import require_writable
from kdcache.targets import ClassLabel
from kdcache.tools.saved_classes import checked_saved, known_classes, known_task
from kdcache.tools.saved_model import SavedModel

ONNX = ".onnx"
EXPORTED = ".pt2"
SCRIPT = ".pt"


@dataclass(frozen=True, kw_only=True)
class ExportModelConfig:
    """What `export-model` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    out: str
    """The file that is written: `.onnx`, `.pt2` (torch.export) or `.pt` (TorchScript)."""
    logits: bool = False
    """Whether the model gives logits, and not probabilities."""
    classes: str | None = None
    """Their number, or a text file with a name on each line; by default what the weights say."""
    recipe: str | None = None
    """Of the images, which says their size where the weights do not; by default the run's recipe
    of evaluation, else `eval`."""

    def __post_init__(self) -> None:
        choose(self.ending, (ONNX, EXPORTED, SCRIPT), f"ending of {self.out}")
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
    saved = checked_saved(config.model, task=None, recipe=config.recipe)
    require_classifier(saved)
    known_classes(saved, config.classes)
    if config.ending == ONNX:
        require_onnx()


def require_classifier(saved: SavedModel) -> None:
    """Raise a UsageError if a model is known to be of another task than classification."""
    task = known_task(saved, None)
    if task not in (None, ClassLabel.task):
        raise UsageError(
            f"model {saved.spec} is of {task}, and export-model takes models that give the class of"
            " a whole image; take its weights, which are a plain file"
        )


def require_onnx() -> None:
    """Raise a KdcacheError if what writes ONNX is not installed."""
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise KdcacheError(
                f"an .onnx file needs {name}; pip install 'kdcache[onnx]', or write a .pt2 file"
            )
