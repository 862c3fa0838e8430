"""What is recoded, and whether it can be; all of it without torch."""

from dataclasses import dataclass
from pathlib import Path

from kdcache.cache import Cache, open_cache
from kdcache.cache.coverage import note_left_out
from kdcache.cache.opening import require_apart
from kdcache.codecs import Codec, RowCodec, codec_spec, open_codec, require_fitting
from kdcache.codecs.conversion import needs_scale, scale_of, why_not
from kdcache.config.seeds import parse_seeds
from kdcache.errors import CacheError, UsageError


@dataclass(frozen=True)
class Recoding:
    """What is recoded."""

    source: Cache
    codec: RowCodec
    """Of the new cache; without its fit, if it has one."""
    seeds: list[int]


def checked_recoding(
    cache: str | Path, new: str | Path, *, codec: str, seeds: str | None
) -> Recoding:
    """Return what `recode_cache` is to do, see there.

    Raises:
        UsageError: a codec that is unknown, or would hold more than the cache; or a new cache
            inside it.
        CacheError: there is no such cache, or none of its seeds is complete.
        MissingUnitError: a seed that is asked for is not complete.
    """
    source = open_cache(cache)
    require_apart(new, [cache])
    new_codec = open_codec(codec, classes=source.manifest.row_width)
    require_fitting(new_codec, source.manifest.layout)
    recoding = Recoding(source, new_codec, _seeds(source, seeds))
    require_possible(source, new_codec)
    return recoding


def require_possible(source: Cache, new_codec: Codec) -> None:
    """Raise a UsageError if records of a codec cannot be made from those of a cache."""
    reason = why_not(source.codec, new_codec, _scale(source, new_codec))
    if reason:
        raise UsageError(
            f"cache {source} ({codec_spec(source.codec)}) cannot become {codec_spec(new_codec)}:"
            f" {reason}"
        )


def _scale(source: Cache, new_codec: Codec) -> float:
    """Return what the cache's codec rounds logits to, over the rows of a unit; 0 where that does
    not matter."""
    if not needs_scale(source.codec, new_codec):
        return 0.0
    first_row = int(source.is_held.argmax())  # of a subset a unit may hold none
    unit = first_row // source.manifest.unit_rows
    commit = source.commit_of(source.complete_seeds()[0], unit)
    return scale_of(source.codec, source.read_unit(commit))


def _seeds(source: Cache, text: str | None) -> list[int]:
    """Return the seeds asked for, or all that are complete."""
    if text is not None:
        seeds = parse_seeds(text)
        for seed in seeds:
            source.require_complete(seed)
        return seeds
    complete_seeds = source.complete_seeds()
    if not complete_seeds:
        raise CacheError(
            f"cache {source} holds no complete seed; run its dump-teacher command again to"
            " finish one"
        )
    note_left_out(source, complete_seeds)
    return complete_seeds
