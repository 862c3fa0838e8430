"""What a measurement of codecs is told: the settings of `codec-error`."""

from dataclasses import dataclass, field
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.runtime.batch_size import AUTO, BatchSize
from kdcache.runtime.device import ComputeConfig

_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class CodecErrorConfig:
    """What `codec-error` does. The logits come from `logits`, or else from `teacher`, `data` and
    `recipe`."""

    logits: str | None = None
    """An .npz file of logits, or the folder of a `full` cache."""
    teacher: str | None = None
    """Spec of the teacher, with its weights. Beside a cache it is that of the cache, of which only
    the last layer's weights are looked at, from which a basis of few views gains."""
    data: str | None = None
    """Spec of the source."""
    recipe: str | None = None
    """A shipped recipe's name, or a TOML file."""
    student: str | None = None
    """Spec of a proxy student, with its weights, or the folder of a run; by default the teacher on
    another view of the sample, of maps and boxes the teacher at the next position."""
    views: int | None = None
    """About how many views to run, or to read of a cache; by default 4,096, of maps and boxes 64,
    of which a quarter is measured whole, up to 16. An .npz file is measured whole."""
    codec: tuple[str, ...] = ()
    """Specs of the codecs; by default a ladder over all that the logits can have."""
    tau: tuple[float, ...] = (1.0, 4.0)
    batch_size: tuple[BatchSize, ...] = (_ROWS,)
    """Views of a batch of the loss, of maps and boxes at most those that are measured; models see
    at most as many at once as the smallest has. `auto`, alone or among them, is for the models, of
    which it tries on the device how many views are fastest."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.views is not None:
            _require_at_least_two("views", self.views)
        for size in self.batch_size:
            if size != AUTO:
                _require_at_least_two("batch_size", size)
        for tau in self.tau:
            if not 0 < tau < float("inf"):
                raise UsageError(f"tau is {tau}; it must be above 0")
        self._require_one_origin()
        if AUTO in self.batch_size and self.logits is not None and self.student is None:
            raise UsageError(
                f"batch_size {AUTO} is for models, and none is run on these logits; give the rows"
                " of a batch, such as 256"
            )

    @property
    def is_file(self) -> bool:
        """Whether the logits are in an .npz file, and not in a cache."""
        return self.logits is not None and Path(self.logits).suffix == ".npz"

    @property
    def loss_sizes(self) -> list[int]:
        """Rows of a batch of the loss, each once."""
        sizes = dict.fromkeys(size for size in self.batch_size if size != AUTO)
        return [*sizes] or [_ROWS]

    @property
    def model_size(self) -> BatchSize:
        """Views of one forward pass of the models."""
        if AUTO in self.batch_size:
            return AUTO
        return min(self.loss_sizes)

    def _require_one_origin(self) -> None:
        """Raise a UsageError unless the logits come from a single place."""
        if self.logits is None:
            if not (self.teacher and self.data and self.recipe):
                raise UsageError(
                    "nothing to measure: give an .npz file of logits, a full cache, or --teacher,"
                    " --data and --recipe"
                )
            return
        if self.recipe or (self.teacher and self.is_file):
            raise UsageError(
                "give either logits (an .npz file or a cache) or a teacher with data and recipe,"
                " not both"
            )
        if self.is_file:
            self._require_whole_file()

    def _require_whole_file(self) -> None:
        """Raise a UsageError if something is said that is not for a file."""
        if self.student or self.data:
            raise UsageError(
                f"{self.logits} holds no images for a student to look at; put its logits in as"
                " `student`"
            )
        if self.views:
            raise UsageError(
                f"views is {self.views}, but an .npz file is measured whole; leave views out"
            )


def _require_at_least_two(name: str, value: int) -> None:
    """Raise a UsageError if a number is less than two."""
    if value < 2:
        raise UsageError(f"{name} is {value}; it must be at least 2")
