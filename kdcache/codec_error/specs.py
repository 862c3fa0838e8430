"""What a measurement names, checked before torch and data are there."""

from kdcache.cache import open_cache
from kdcache.cache.storage.protocol import is_address
from kdcache.codec_error.config import CodecErrorConfig
from kdcache.codec_error.measured_logits import measured_seeds, opened_npz, require_few_rows
from kdcache.codecs import check_codec, open_codec
from kdcache.models.specs import check_model
from kdcache.sources import check_source
from kdcache.views import check_recipe


def check_specs(config: CodecErrorConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    for codec in config.codec:
        check_codec(codec)
    if config.logits is not None:
        _check_logits(config.logits, config)
    if config.recipe is not None:
        check_recipe(config.recipe)
    if config.data is not None:
        check_source(config.data)
    for model in filter(None, (config.teacher, config.student)):
        check_model(model, asks_library=False, is_trained=True)


def _check_logits(logits: str, config: CodecErrorConfig) -> None:
    """Check the file or the cache of logits."""
    if config.is_file:
        with opened_npz(logits):
            return
    if is_address(logits):  # a bucket takes long to answer
        return
    cache = open_cache(logits)
    measured_seeds(cache, student=config.student, data=config.data)
    if config.teacher is not None:
        require_few_rows(cache)
    for codec in config.codec:
        open_codec(codec, classes=cache.manifest.row_width)
