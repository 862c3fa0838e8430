"""What a measurement names, checked before torch and data are there."""

from kdcache.codec_error.config import CodecErrorConfig
from kdcache.codecs import check_codec
from kdcache.models.specs import check_model
from kdcache.sources import check_source
from kdcache.views import recipe_table


def check_specs(config: CodecErrorConfig) -> None:
    """Check names, options and paths, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    for codec in config.codec:
        check_codec(codec)
    if config.recipe is not None:
        recipe_table(config.recipe)
    if config.data is not None:
        check_source(config.data)
    for model in filter(None, (config.teacher, config.student)):
        check_model(model, asks_library=False, is_trained=True)
