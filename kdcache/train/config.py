"""What a training is told: every key of `train-student`, checked where it can be without opening
anything."""

from dataclasses import dataclass, field

from kdcache.errors import UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.losses import open_loss
from kdcache.runtime.batch_size import AUTO
from kdcache.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the student's weights, timm's ModelEmaV3; it is evaluated beside the
    student."""

    decay: float = 0.0
    """Of the average, such as 0.9999; 0 for none."""
    warmup: bool = False
    """Whether the decay starts low and rises."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"ema.decay is {self.decay}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoaderConfig):
    """What `train-student` does."""

    run: str
    """Folder of the run."""
    student: str
    """Spec of the student, or the folder of a run."""
    loss: str = "dist:tau=1,beta=2,gamma=2"
    """Spec of the loss."""
    eval_data: str | None = None
    """Spec of the source to evaluate on after each epoch."""
    eval_every: int = 1
    """Epochs from one evaluation to the next; the last epoch is evaluated anyway."""
    eval_recipe: str | None = None
    """By default the one that the training recipe names."""
    eval_window: tuple[int, ...] | None = None
    """Height and width of windows that slide over images that segmentation is evaluated on; by
    default they are seen whole."""
    align_corners: bool = False
    """Whether maps of segmentation are upsampled to their masks, in training and evaluation,
    between the centres of the pixels in the corners, as in older code, and not between their
    edges."""
    loss_warmup_epochs: int = 0
    """Over how many epochs the weight of the terms against the teacher rises, an equal step each
    epoch, as DKD's authors have it."""
    label_smoothing: float = 0.0
    """Share of a label that is spread evenly over all classes, in cross-entropy."""
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
    on_metrics: str | None = None
    """A function of yours, `module:function,key=value`, that gives what is called with each line of
    metrics."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)

    def __post_init__(self) -> None:
        self._check_numbers()
        super().__post_init__()
        self._check_loss()
        self._check_automatic_batch()

    def _check_numbers(self) -> None:
        if self.log_steps < 1:
            raise UsageError(f"log_steps is {self.log_steps}; it must be at least 1")
        if self.eval_every < 1:
            raise UsageError(f"eval_every is {self.eval_every}; it must be at least 1")
        if self.eval_every > 1 and self.eval_data is None:
            raise UsageError(
                f"eval_every is {self.eval_every}, and there is nothing to evaluate on; give"
                " eval_data, too, or leave it out"
            )
        if self.loss_warmup_epochs < 0:
            raise UsageError(
                f"loss_warmup_epochs is {self.loss_warmup_epochs}; it must be 0 or more"
            )
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise UsageError(f"clip_grad is {self.clip_grad}; it must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1"
            )
        if not self.checkpoint_minutes >= 0:
            raise UsageError(
                f"checkpoint_minutes is {self.checkpoint_minutes}; it must be 0 or more"
            )

    def _check_loss(self) -> None:
        needs_teacher = "teacher" in open_loss(self.loss).requires
        if needs_teacher and not (self.caches or self.teacher):
            raise UsageError(
                f"loss {self.loss} needs a teacher; give a cache, or a teacher to run in the loop,"
                " or --loss ce"
            )
        if self.tail != "uniform" and not (self.caches and needs_teacher):
            raise UsageError(
                f"tail {self.tail!r} is a way to read a topk cache, and loss {self.loss} reads"
                " none; leave it out"
            )

    def _check_automatic_batch(self) -> None:
        """Check that the student alone decides what fits."""
        if self.batch_size != AUTO:
            return
        if self.teacher:
            raise UsageError(
                "batch_size auto tries the student alone, and a teacher in the loop needs memory"
                " beside it; give a number"
            )
        if self.sync_batch_norm:
            raise UsageError(
                "batch_size auto tries each process by itself, and sync_batch_norm needs all of"
                " them; give a number"
            )
