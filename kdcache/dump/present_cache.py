"""Whether a dump can go on with the cache that is there; told without torch, as far as the settings
say it."""

from dataclasses import replace

from kdcache.cache import Cache, record_layout
from kdcache.codecs import Codec, open_codec, row_codec, with_layout
from kdcache.dump.config import DumpConfig
from kdcache.errors import MismatchError
from kdcache.verify.known_teacher import lossy_origin


def check_present(cache: Cache, config: DumpConfig) -> None:
    """Check the settings that a manifest holds as they are told. What follows from the recipe, the
    data and the teacher is compared when these are open.

    Raises:
        MismatchError: the cache was made with others.
    """
    manifest = cache.manifest
    row = row_codec(codec_of_cache(cache, config.codec, manifest.row_width))
    codec = with_layout(row, manifest.layout)
    stated = replace(
        manifest,
        codec=record_layout(codec, manifest.rows)["codec"],
        order_seed=config.order_seed,
        skip_unreadable=config.skip_unreadable,
        samples=None,
        store=config.store or manifest.store,
        teacher=replace(manifest.teacher, precision=config.compute.precision),
    )
    cache.require(stated.with_codec_of(manifest))
    require_same_digests(config, cache)


def codec_of_cache(cache: Cache, spec: str | None, classes: int) -> Codec:
    """Return the codec that is asked for, with the fit of the cache, or the cache's own if none
    is.

    Raises:
        MismatchError: the cache was recoded from a lossy one.
    """
    _require_direct(cache)
    if spec is None:
        return cache.codec
    return cache.with_fit(open_codec(spec, classes=classes))


def _require_direct(cache: Cache) -> None:
    """Raise a MismatchError if the cache was recoded from a lossy one: records of a dump would be
    others than its own."""
    if origin := lossy_origin(cache):
        raise MismatchError(
            f"cache {cache} was recoded from {origin}, so that its records are not those of a dump;"
            " add the seeds to the cache that it came from, and run recode again"
        )


def require_same_digests(config: DumpConfig, cache: Cache) -> None:
    """Raise a MismatchError if content digests are wanted, or not, and the cache is otherwise."""
    has_digests = cache.manifest.source.contents is not None
    if config.content_digests not in (None, has_digests):
        with_or_without = "with" if has_digests else "without"
        raise MismatchError(
            f"content_digests is {str(config.content_digests).lower()}, and cache {cache} was made "
            f"{with_or_without} them; leave it out, or choose a new folder"
        )
