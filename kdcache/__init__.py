"""kdcache: run a teacher once, cache its logits per view, train students from the cache.

Public names are imported on first use, so that `import kdcache` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdcache.cache import Cache, open_cache
    from kdcache.cached_source import views_of
    from kdcache.codecs import open_codec
    from kdcache.convert import convert_cache
    from kdcache.copying import export_cache, merge_caches
    from kdcache.dump import DumpConfig, dump_teacher
    from kdcache.errors import KdcacheError
    from kdcache.garbage import collect_garbage
    from kdcache.hub import pull_cache, push_cache
    from kdcache.losses import dist_loss, kl_loss
    from kdcache.models import open_model
    from kdcache.recode import recode_cache
    from kdcache.sources import open_source
    from kdcache.train import TrainConfig, train_student
    from kdcache.verify import verify_cache
    from kdcache.views import ViewDataset, load_recipe

__version__ = "0.1.0"

_HOMES = {
    "Cache": "cache",
    "DumpConfig": "dump",
    "KdcacheError": "errors",
    "TrainConfig": "train",
    "ViewDataset": "views",
    "collect_garbage": "garbage",
    "convert_cache": "convert",
    "dist_loss": "losses",
    "dump_teacher": "dump",
    "export_cache": "copying",
    "kl_loss": "losses",
    "load_recipe": "views",
    "merge_caches": "copying",
    "open_cache": "cache",
    "open_codec": "codecs",
    "open_model": "models",
    "open_source": "sources",
    "pull_cache": "hub",
    "push_cache": "hub",
    "recode_cache": "recode",
    "train_student": "train",
    "verify_cache": "verify",
    "views_of": "cached_source",
}

__all__ = [
    "Cache",
    "DumpConfig",
    "KdcacheError",
    "TrainConfig",
    "ViewDataset",
    "collect_garbage",
    "convert_cache",
    "dist_loss",
    "dump_teacher",
    "export_cache",
    "kl_loss",
    "load_recipe",
    "merge_caches",
    "open_cache",
    "open_codec",
    "open_model",
    "open_source",
    "pull_cache",
    "push_cache",
    "recode_cache",
    "train_student",
    "verify_cache",
    "views_of",
]


def __getattr__(name: str) -> object:
    """Return a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(import_module(f"kdcache.{_HOMES[name]}"), name)
