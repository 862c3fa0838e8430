"""What a training names, checked before torch, data and models are there."""

from pathlib import Path

from kdcache.cache import open_cache
from kdcache.cache.storage.protocol import is_address
from kdcache.config.files import parse_seeds
from kdcache.loader.cache_specs import parse_cache
from kdcache.models.specs import check_model
from kdcache.sources import check_source
from kdcache.train.config import TrainConfig
from kdcache.train.run_files import RESULT_FILE
from kdcache.views import recipe_table


def check_specs(config: TrainConfig) -> None:
    """Check names, options and paths, as far as that takes no torch; of a run that has come to its
    end nothing is opened, and nothing need be there.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    if (Path(config.run) / RESULT_FILE).exists():
        return
    if config.seeds is not None:
        parse_seeds(config.seeds)
    for recipe in filter(None, (config.recipe, config.eval_recipe)):
        recipe_table(recipe)
    for model in filter(None, (config.student, config.teacher)):
        check_model(model, asks_library=False)
    for text in config.caches:
        path, _ = parse_cache(text)
        # one in a bucket takes long to ask, and one that is waited for may not be there yet
        if not is_address(path) and config.wait_for_units is None:
            open_cache(path)
    for data in filter(None, (config.data, config.eval_data)):
        check_source(data)
