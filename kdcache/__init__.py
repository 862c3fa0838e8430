"""kdcache: run a teacher once, cache its logits per view, train students from the cache.

Public names are imported on first use, so that `import kdcache` does not import torch.
"""

import sys
from typing import TYPE_CHECKING

from kdcache.deferred import door
from kdcache.version import __version__ as __version__

if sys.platform == "win32":  # which lacks the locks and signals that caches and runs need
    raise ImportError(
        "kdcache needs Linux or macOS; on Windows install it in the Windows Subsystem for Linux"
        " (WSL), which is Linux: wsl --install"
    )

if TYPE_CHECKING:
    from kdcache.cache import Cache, open_cache
    from kdcache.cache.source import views_of
    from kdcache.codecs import open_codec
    from kdcache.dump.run import dump_teacher
    from kdcache.errors import KdcacheError
    from kdcache.imports.run import import_cache
    from kdcache.loader.batch import DistillationBatch
    from kdcache.loader.config import LoaderConfig
    from kdcache.loader.loader import DistillationLoader
    from kdcache.losses import cwd_loss, dist_loss, dkd_loss, kl_loss, mlkd_loss, mse_loss, nkd_loss
    from kdcache.models.model import open_model
    from kdcache.models.one_stage import PyramidOutput
    from kdcache.positions import Pyramid
    from kdcache.soft_targets import SoftTargets
    from kdcache.sources import open_source
    from kdcache.tools.convert import convert_cache
    from kdcache.tools.export import export_cache
    from kdcache.tools.garbage import collect_garbage
    from kdcache.tools.hub import pull_cache, push_cache
    from kdcache.tools.merge import merge_caches
    from kdcache.tools.recode import recode_cache
    from kdcache.train.config import TrainConfig
    from kdcache.train.evaluate import evaluate
    from kdcache.train.run import train_student, train_students
    from kdcache.verify.cache import verify_cache
    from kdcache.views import Recipe, ViewDataset, load_recipe, recipe_of

_HOMES = {
    "Cache": "cache",
    "DistillationBatch": "loader.batch",
    "DistillationLoader": "loader.loader",
    "KdcacheError": "errors",
    "LoaderConfig": "loader.config",
    "Pyramid": "positions",
    "PyramidOutput": "models.one_stage",
    "Recipe": "views",
    "SoftTargets": "soft_targets",
    "TrainConfig": "train.config",
    "ViewDataset": "views",
    "collect_garbage": "tools.garbage",
    "convert_cache": "tools.convert",
    "cwd_loss": "losses",
    "dist_loss": "losses",
    "dkd_loss": "losses",
    "dump_teacher": "dump.run",
    "evaluate": "train.evaluate",
    "export_cache": "tools.export",
    "import_cache": "imports.run",
    "kl_loss": "losses",
    "load_recipe": "views",
    "merge_caches": "tools.merge",
    "mlkd_loss": "losses",
    "mse_loss": "losses",
    "nkd_loss": "losses",
    "open_cache": "cache",
    "open_codec": "codecs",
    "open_model": "models.model",
    "open_source": "sources",
    "pull_cache": "tools.hub",
    "push_cache": "tools.hub",
    "recipe_of": "views",
    "recode_cache": "tools.recode",
    "train_student": "train.run",
    "train_students": "train.run",
    "verify_cache": "verify.cache",
    "views_of": "cache.source",
}

__all__ = [
    "Cache",
    "DistillationBatch",
    "DistillationLoader",
    "KdcacheError",
    "LoaderConfig",
    "Pyramid",
    "PyramidOutput",
    "Recipe",
    "SoftTargets",
    "TrainConfig",
    "ViewDataset",
    "collect_garbage",
    "convert_cache",
    "cwd_loss",
    "dist_loss",
    "dkd_loss",
    "dump_teacher",
    "evaluate",
    "export_cache",
    "import_cache",
    "kl_loss",
    "load_recipe",
    "merge_caches",
    "mlkd_loss",
    "mse_loss",
    "nkd_loss",
    "open_cache",
    "open_codec",
    "open_model",
    "open_source",
    "pull_cache",
    "push_cache",
    "recipe_of",
    "recode_cache",
    "train_student",
    "train_students",
    "verify_cache",
    "views_of",
]


__getattr__ = door("kdcache", _HOMES)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
