"""What a training names, checked before torch, data and models are there."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kdcache.cache import Cache
from kdcache.config.seeds import parse_seeds
from kdcache.config.spec import parse_spec
from kdcache.config.user_functions import require_module
from kdcache.errors import KdcacheError
from kdcache.loader.record_checks import check_records
from kdcache.loader.specs import check_caches, local_caches
from kdcache.losses import open_loss
from kdcache.models.specs import check_model
from kdcache.runtime.batch_size import AUTO
from kdcache.runtime.console import nothing_said
from kdcache.sources import check_source
from kdcache.train.config import TrainConfig
from kdcache.train.metrics_reading import is_of_epochs, read_result
from kdcache.train.one_pass import require_one_pass
from kdcache.train.optim import check_optimizer_name
from kdcache.train.run_files import RESULT_FILE
from kdcache.train.run_settings import batch_size_of_runs, check_folder, with_student_spec
from kdcache.views import check_recipe


def check_specs(configs: Sequence[TrainConfig]) -> None:
    """Check names, options and paths, as far as that takes no torch, each once; of a run that has
    come to its end only the settings are looked at, and nothing need be there.

    Raises:
        KdcacheError: one of them is unknown, or not there.
        MismatchError: a run was started with other settings.
    """
    require_one_pass(configs)
    unfinished = [config for config in configs if not _is_finished(config)]
    if unfinished:
        first = unfinished[0]
        opened = local_caches(first)
        _check_names(unfinished)
        check_caches(first, opened)
        _check_losses(unfinished, [cache for cache, _ in opened])
    _check_folders(configs)


def _check_names(configs: Sequence[TrainConfig]) -> None:
    """Check what runs name."""
    for config in configs:
        if config.seeds is not None:
            parse_seeds(config.seeds)
        check_optimizer_name(config.optimizer)
    for recipe in _named((config.recipe, config.eval_recipe) for config in configs):
        check_recipe(recipe)
    for text in _named((config.on_metrics,) for config in configs):
        require_module(parse_spec(text), "on_metrics", (), error=KdcacheError)
    for data in _named((config.data, config.eval_data) for config in configs):
        check_source(data)
    # after the data: a module of the user's own that makes them may register a model with timm
    for student in _named((config.student,) for config in configs):
        check_model(student, asks_library=False)
    for teacher in _named((config.teacher,) for config in configs):
        check_model(teacher, asks_library=False, is_trained=True)


def _check_losses(configs: Sequence[TrainConfig], caches: Sequence[Cache]) -> None:
    """Check that caches hold what the losses need; notes come later."""
    with nothing_said():
        for config in configs:
            loss = open_loss(config.loss)
            for cache in caches:
                check_records(cache, loss, config.loss, config.tail)


def _check_folders(configs: Sequence[TrainConfig]) -> None:
    """Check that each run may be begun in its folder, or go on there; notes come later."""
    batch_size = configs[0].batch_size
    if batch_size == AUTO:
        batch_size = batch_size_of_runs(configs) or AUTO
    with nothing_said():
        for config in configs:
            sized = replace(config, batch_size=batch_size)
            check_folder(Path(config.run), with_student_spec(sized))


def _is_finished(config: TrainConfig) -> bool:
    """Return whether a run has come to the end of its epochs, as its folder says."""
    file = Path(config.run) / RESULT_FILE
    return file.is_file() and is_of_epochs(read_result(file), config.epochs)


def _named(groups: Iterable[Iterable[str | None]]) -> list[str]:
    """Return all names of groups, each once, in their order."""
    names: dict[str, None] = {}
    for group in groups:
        for name in group:
            if name:
                names[name] = None
    return list(names)
