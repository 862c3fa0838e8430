"""What `evaluate` does, and which data that is of a run; all of it without torch."""

from dataclasses import dataclass, field

from kdcache.errors import UsageError
from kdcache.models.specs import check_model
from kdcache.runtime.device import ComputeConfig
from kdcache.sources import check_source
from kdcache.tools.saved_model import find_model
from kdcache.views import recipe_table


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `evaluate` does."""

    model: str
    """The folder of a run, or the spec of a model with its weights."""
    data: str | None = None
    """Spec of the source; by default the run's evaluation data."""
    recipe: str | None = None
    """Of the views; by default the run's recipe of evaluation, else one for the task."""
    window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images of segmentation; by default the run's,
    else they are seen whole."""
    align_corners: bool | None = None
    """Whether maps of segmentation are upsampled so; by default as in the run, else not."""
    batch_size: int = 256
    """Views of a batch."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be at least 1")


def check_specs(config: EvaluateConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    saved = find_model(config.model)
    check_model(saved.spec, asks_library=False)
    check_source(saved.data_or_own(config.data))
    if config.recipe is not None:
        recipe_table(config.recipe)
