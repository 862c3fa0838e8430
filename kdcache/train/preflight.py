"""What can be known to be wrong with a training before its data and models are opened."""

from pathlib import Path

from kdcache.config.seeds import parse_seeds
from kdcache.errors import UsageError
from kdcache.models.specs import check_model
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.runtime.files import require_writable_folder
from kdcache.runtime.wording import counted
from kdcache.sources import require_outside
from kdcache.tasks.windows import check_window
from kdcache.train.config import TrainConfig
from kdcache.train.metrics_log import summary_writer
from kdcache.train.optim import check_optimizer, check_schedule
from kdcache.views import load_recipe


def check_training(config: TrainConfig, compute: Compute) -> None:
    """Check settings that say something about each other, a library or this machine.

    Raises:
        KdcacheError: one of them cannot be used.
    """
    if config.sync_batch_norm and compute.device.type != "cuda":
        raise UsageError("sync_batch_norm is for CUDA only; leave it out")
    if config.tensorboard:
        summary_writer()
    if config.slab_dir is not None:
        require_writable_folder(Path(config.slab_dir), "slab_dir")
        for data in (config.data, config.eval_data):
            require_outside(config.slab_dir, "slab_dir", data)
    check_optimizer(config.optimizer)
    check_schedule(config.schedule, epochs=config.epochs)
    if config.schedule.name != "none" and config.schedule.warmup_epochs >= config.epochs:
        warmup = f"schedule.warmup_epochs is {config.schedule.warmup_epochs:g}"
        end = f"the run ends after {counted(config.epochs, 'epoch')}"
        say(f"note: {warmup}, and {end}: the learning rate never reaches its height")
    if config.seeds is not None:
        parse_seeds(config.seeds)
    if config.recipe is not None:
        load_recipe(config.recipe)
    if config.eval_recipe is not None:
        load_recipe(config.eval_recipe)
    check_window(config.eval_window)
    check_model(config.student)
    if config.teacher is not None:
        check_model(config.teacher, is_trained=True)
