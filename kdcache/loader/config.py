"""What a loader is told: which views and whose soft targets, in which order and batches."""

from dataclasses import dataclass, field
from typing import Literal

from kdcache.cache.slab_folder import DEFAULT_LIMIT
from kdcache.codecs import Tail
from kdcache.errors import UsageError
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.runtime.device import ComputeConfig

_MOST_REPEATS = 1000
_MOST_GB = 1e9
OnMiss = Literal["error", "skip", "teacher"]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Settings of `DistillationLoader`; those of `train-student` have them too."""

    cache: str | tuple[str, ...] | None = None
    """The cache that holds the teacher's logits, `DIR`, or several of them,
    `DIR[,weight=X][,classes=FILE.csv]` each."""
    data: str | None = None
    """Spec of the source; with a cache, the one that it was made from; by default a webdataset
    cache's own images."""
    teacher: str | None = None
    """Spec of a teacher to run in the loop, instead of a cache, or with `on_miss` on what a cache
    lacks."""
    on_miss: OnMiss = "error"
    """What is done about views that a cache lacks: stop, leave them out (`skip`), or run `teacher`
    on them."""
    tail: Tail = "uniform"
    """How a topk cache's tail is spread over the classes that the codec dropped: evenly, as the
    student does (`ghost`), or not at all (`none`)."""
    recipe: str | None = None
    """Recipe of the training views; a cache brings its own."""
    seeds: str | None = None
    """Seeds that epochs take in turn; by default all complete ones of the cache, without a cache
    new ones each epoch."""
    samples: str | None = None
    """Samples to train on: numbers `A:B` in the source's order, or a text file with a key on each
    line; by default all that all caches hold."""
    repeats: int = 1
    """Seeds under which a sample comes in one epoch, on end; of as many samples fewer come
    (repeated augmentation)."""
    epochs: int = 100
    """How many there are to be: without a cache each has seeds of its own."""
    batch_size: BatchSize = 256
    """Views of an optimiser step, over all processes and accumulated parts; `auto`, of a training
    on GPUs, is the largest power of two that fits, and is kept with the run."""
    accumulate: int = 1
    """Parts of a batch that pass one after another, for want of memory; batch statistics, DIST's
    too, are those of a part."""
    run_seed: int = 0
    """Decides the student's initial weights, dropout, and the order of samples."""
    order_seed: int | None = None
    """Decides the order of samples in the place of run_seed, so that students of several run seeds
    can see the same batches."""
    window: int | None = None
    """Units whose rows are shuffled together, read as the epoch comes to them; by default all rows
    are shuffled, and read through slabs, or in windows of 16 where images come from a bucket,
    too."""
    slab_dir: str | None = None
    """Folder of slabs and of copies from buckets; by default KDCACHE_HOME/slabs."""
    slab_limit: float = DEFAULT_LIMIT / 1e9
    """GB of them that are kept; those used least recently go first."""
    wait_for_units: float | None = None
    """Seconds to wait for the next unit of a dump that is still running, or for its beginning; by
    default none."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    @property
    def order(self) -> int:
        """The seed that decides the order of samples."""
        if self.order_seed is None:
            return self.run_seed
        return self.order_seed

    @property
    def caches(self) -> tuple[str, ...]:
        """The specs of the caches."""
        if isinstance(self.cache, str):
            return (self.cache,)
        return self.cache or ()

    def __post_init__(self) -> None:
        self._check_order()
        self._check_reading()
        self._check_sources()

    def _check_order(self) -> None:
        require_batch_size(self.batch_size)
        for name in ("epochs", "accumulate", "repeats"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if self.repeats > _MOST_REPEATS:
            raise UsageError(f"repeats is {self.repeats}; it must be at most {_MOST_REPEATS}")
        for name in ("run_seed", "order_seed"):
            seed = getattr(self, name)
            if seed is not None and not 0 <= seed < 2**32:
                raise UsageError(f"{name} is {seed}; it must be from 0 to 2^32 - 1")

    def _check_reading(self) -> None:
        if self.window is not None and (self.window < 1 or not self.caches):
            raise UsageError(f"window is {self.window}; it counts units of a cache, at least 1")
        if not 0 < self.slab_limit <= _MOST_GB:
            raise UsageError(f"slab_limit is {self.slab_limit}; it must be above 0, and in GB")
        wait = self.wait_for_units
        if wait is not None and not (wait > 0 and self.caches and self.seeds is not None):
            raise UsageError(
                f"wait_for_units is {wait}; it must be above 0 seconds, and needs a cache, and the"
                " seeds to wait for"
            )
        if wait is not None and self.on_miss != "error":
            raise UsageError(
                f"wait_for_units waits for what on_miss {self.on_miss!r} would go on without; give"
                " one of them"
            )
        if self.data is None and (not self.caches or self.on_miss == "teacher"):
            raise UsageError(
                "data is missing: only a webdataset cache with images can do without, and only for"
                " what it holds"
            )

    def _check_sources(self) -> None:
        fills = self.on_miss == "teacher"
        if self.on_miss != "error" and not self.caches:
            raise UsageError(
                f"on_miss is {self.on_miss!r}, and there is no cache that could lack anything;"
                " leave it out"
            )
        if fills and (len(self.caches) != 1 or not self.teacher):
            raise UsageError(
                "on_miss 'teacher' needs one cache, and the teacher that it was made with"
            )
        if self.caches and self.teacher and not fills:
            raise UsageError(
                "give either a cache or a teacher to run in the loop, not both; or --on-miss"
                " teacher"
            )
        if self.caches and self.recipe:
            raise UsageError("a cache brings its own recipe; leave recipe out")
        if not self.caches and not self.recipe:
            raise UsageError(
                "without a cache the training views need a recipe; give one, such as --recipe cifar"
            )
