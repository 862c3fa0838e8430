"""What `predict` does, checked without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from kdcache.config.spec import choose
from kdcache.errors import UsageError
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.files import require_writable
from kdcache.sources import check_source, path_of_images
from kdcache.sources.parquet_files import require_pyarrow
from kdcache.tools.saved_classes import checked_classifier, known_classes

CSV = ".csv"
PARQUET = ".parquet"
_MOST_SHOWN = 5
"""Classes of an image, where the user does not say how many."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What `predict` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    out: str
    """The file that is written, `.csv` or `.parquet`."""
    data: str | None = None
    """A folder of images or one image, without labels, or the spec of a source; by default the
    run's evaluation data."""
    top_k: int | None = None
    """How many classes of each image are told; by default 5, or all if there are fewer."""
    classes: str | None = None
    """Their number, or a text file with a name on each line; by default what the weights say."""
    recipe: str | None = None
    """Of the views; by default the run's recipe of evaluation, else `eval`."""
    batch_size: BatchSize = 256
    """Views of a batch; `auto` tries on the device how many are fastest."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; it must be at least 1")
        choose(self.ending, (CSV, PARQUET), f"ending of {self.out}")
        require_writable(Path(self.out))

    @property
    def ending(self) -> str:
        """What the name of the file ends with, in lower case."""
        return Path(self.out).suffix.lower()

    @property
    def images(self) -> str | None:
        """The path of the images without labels that are predicted; None of a source.

        Raises:
            UsageError: a path that is not there, or of which it cannot be told what it holds.
        """
        if self.data is None:
            return None
        return path_of_images(self.data)

    def count_shown(self, num_classes: int) -> int:
        """Return how many classes of each image are told.

        Raises:
            UsageError: more are asked for than there are.
        """
        if self.top_k is None:
            return min(_MOST_SHOWN, num_classes)
        if self.top_k > num_classes:
            raise UsageError(
                f"top_k is {self.top_k}, and the model has {num_classes} classes; ask for as many"
                " at most"
            )
        return self.top_k


def check_specs(config: PredictConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    saved = checked_classifier(config.model, "predict", recipe=config.recipe)
    data = saved.data_or_own(config.data)
    if config.images is None:
        check_source(data)
    elif saved.is_silent or config.classes is not None:
        known_classes(saved, config.classes)
    if config.ending == PARQUET:
        require_pyarrow()
