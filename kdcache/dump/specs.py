"""What a dump names, checked before torch, data and teacher are there."""

from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.opening import open_cache, open_storage, probe_new
from kdcache.cache.storage.protocol import is_address
from kdcache.codecs import check_codec
from kdcache.config.seeds import parse_seeds
from kdcache.dump.config import DumpConfig
from kdcache.dump.present_cache import check_present
from kdcache.models.specs import check_model
from kdcache.sources import check_source, require_outside
from kdcache.views import check_recipe


def check_specs(config: DumpConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
        MismatchError: the cache was made with other settings.
    """
    parse_seeds(config.seeds)
    check_recipe(config.recipe)
    if config.codec is not None:
        check_codec(config.codec)
    check_source(config.data)
    if not is_address(config.cache):  # a bucket takes long to answer
        storage = open_storage(config.cache)
        if storage.exists(MANIFEST):
            check_present(open_cache(storage), config)
        else:
            require_outside(config.cache, "cache", config.data)
            probe_new(storage, writes=False)
    # after the data: a module of the user's own that makes them may register a model with timm
    check_model(config.teacher, asks_library=False, is_trained=True)
