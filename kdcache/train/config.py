"""What a training is told: every key of `train-student`, checked where it can be without opening anything."""

from dataclasses import dataclass, field
from typing import Literal

from kdcache.cache.slab_folder import DEFAULT_LIMIT
from kdcache.codecs import Tail
from kdcache.errors import UsageError
from kdcache.losses import open_loss
from kdcache.runtime.device import ComputeConfig
from kdcache.train.optim import OptimizerConfig, ScheduleConfig

_MOST_REPEATS = 1000
_MOST_GB = 1e9
OnMiss = Literal["error", "skip", "teacher"]


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the student's weights, timm's ModelEmaV3; it is evaluated beside the student."""

    decay: float = 0.0
    """Of the average, such as 0.9999; 0 for none."""
    warmup: bool = False
    """Whether the decay starts low and rises."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"ema.decay is {self.decay}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `train-student` does."""

    run: str
    """Folder of the run."""
    data: str | None = None
    """Spec of the source; with a cache, the one that it was made from; by default a webdataset cache's own images."""
    student: str
    """Spec of the student."""
    loss: str = "dist:tau=1,beta=2,gamma=2"
    """Spec of the loss."""
    cache: str | tuple[str, ...] | None = None
    """The cache that holds the teacher's logits, `DIR`, or several of them, `DIR[,weight=X][,classes=FILE.csv]` each."""
    tail: Tail = "uniform"
    """How a topk cache's tail is spread over the classes that the codec dropped: evenly, as is usual for the row's top class
    (`prior`), as the student does (`ghost`), or not at all (`none`)."""
    on_miss: OnMiss = "error"
    """What is done about views that a cache lacks: stop, leave them out (`skip`), or run `teacher` on them."""
    teacher: str | None = None
    """Spec of a teacher to run in the loop, instead of a cache, or with `on_miss` on what a cache lacks."""
    recipe: str | None = None
    """Recipe of the training views; a cache brings its own."""
    seeds: str | None = None
    """Seeds that epochs take in turn; by default all complete ones of the cache, without a cache new ones each epoch."""
    window: int | None = None
    """Units whose rows are shuffled together, read as the epoch comes to them; by default all rows are shuffled, and read
    through slabs, or in windows of 16 where images come from a bucket, too."""
    slab_dir: str | None = None
    """Folder of slabs and of copies from buckets; by default KDCACHE_HOME/slabs."""
    slab_limit: float = DEFAULT_LIMIT / 1e9
    """GB of them that are kept; those used least recently go first."""
    wait_for_units: float | None = None
    """Seconds to wait for the next unit of a dump that is still running, or for its beginning; by default none."""
    samples: str | None = None
    """Samples to train on: numbers `A:B` in the source's order, or a text file with a key on each line; by default all that all
    caches hold."""
    repeats: int = 1
    """Seeds under which a sample comes in one epoch, on end; of as many samples fewer come (repeated augmentation)."""
    eval_data: str | None = None
    """Spec of the source to evaluate on after each epoch."""
    eval_recipe: str | None = None
    """By default the one that the training recipe names."""
    eval_window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images that segmentation is evaluated on; by default they are seen whole."""
    epochs: int = 100
    batch_size: int = 256
    """Views of an optimiser step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts of a batch that pass one after another, for want of memory; batch statistics, DIST's too, are those of a part."""
    run_seed: int = 0
    """Decides the student's initial weights, the order of samples and dropout."""
    label_smoothing: float = 0.0
    clip_grad: float | None = None
    """Largest norm of the whole gradient."""
    sync_batch_norm: bool = False
    """Whether batch norms see the batch of all processes (CUDA only)."""
    log_steps: int = 50
    """Steps between lines of metrics."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints inside an epoch; one is written after each epoch, and when a
    signal stops the run, anyway."""
    tensorboard: bool = False
    """Whether metrics also go to RUN/tensorboard."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    @property
    def caches(self) -> tuple[str, ...]:
        """The specs of the caches."""
        return (self.cache,) if isinstance(self.cache, str) else self.cache or ()

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_reading()
        self._check_sources()

    def _check_numbers(self) -> None:
        for name in ("epochs", "batch_size", "log_steps", "accumulate", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.repeats > _MOST_REPEATS:
            raise UsageError(f"repeats is {self.repeats}; it must be at most {_MOST_REPEATS}")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise UsageError(f"clip_grad is {self.clip_grad}; it must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if not self.checkpoint_minutes >= 0:
            raise UsageError(f"checkpoint_minutes is {self.checkpoint_minutes}; it must be 0 or more")
        if not 0 <= self.run_seed < 2**32:
            raise UsageError(f"run_seed is {self.run_seed}; it must be from 0 to 2^32 - 1")

    def _check_reading(self) -> None:
        if self.window is not None and (self.window < 1 or not self.caches):
            raise UsageError(f"window is {self.window}; it counts units of a cache, at least 1")
        if not 0 < self.slab_limit <= _MOST_GB:
            raise UsageError(f"slab_limit is {self.slab_limit}; it must be above 0, and in GB")
        wait = self.wait_for_units
        if wait is not None and not (wait > 0 and self.caches and self.seeds):
            raise UsageError(
                f"wait_for_units is {wait}; it must be above 0 seconds, and needs a cache, and the seeds to wait for"
            )
        if wait is not None and self.on_miss != "error":
            raise UsageError(f"wait_for_units waits for what on_miss {self.on_miss!r} would go on without; give one of them")
        if self.data is None and (not self.caches or self.on_miss == "teacher"):
            raise UsageError("data is missing: only a webdataset cache with images can do without, and only for what it holds")

    def _check_sources(self) -> None:
        fills = self.on_miss == "teacher"
        if self.on_miss != "error" and not self.caches:
            raise UsageError(f"on_miss is {self.on_miss!r}, and there is no cache that could lack anything; leave it out")
        if fills and (len(self.caches) != 1 or not self.teacher):
            raise UsageError("on_miss 'teacher' needs one cache, and the teacher that it was made with")
        if self.caches and self.teacher and not fills:
            raise UsageError("give either a cache or a teacher to run in the loop, not both; or --on-miss teacher")
        if self.caches and self.recipe:
            raise UsageError("a cache brings its own recipe; leave recipe out")
        if not self.caches and not self.recipe:
            raise UsageError("without a cache the training views need a recipe; give one, such as --recipe cifar")
        needs_teacher = open_loss(self.loss).needs_teacher
        if needs_teacher and not (self.caches or self.teacher):
            raise UsageError(f"loss {self.loss} needs a teacher; give a cache, or a teacher to run in the loop, or --loss ce")
        if self.tail != "uniform" and not (self.caches and needs_teacher):
            raise UsageError(f"tail {self.tail!r} is a way to read a topk cache, and loss {self.loss} reads none; leave it out")
