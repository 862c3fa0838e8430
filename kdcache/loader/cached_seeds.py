"""Which seeds of its caches a run takes; told without torch."""

from collections.abc import Sequence

from kdcache.cache import Cache
from kdcache.cache.coverage import note_left_out
from kdcache.config.seeds import parse_seeds
from kdcache.errors import MismatchError, UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.runtime.console import say
from kdcache.runtime.wording import named


def cached_seeds(config: LoaderConfig, caches: Sequence[Cache]) -> list[int]:
    """Return the seeds of the epochs: those asked for, or those that every cache holds.

    Raises:
        MissingUnitError: a seed that is asked for lacks units.
        MismatchError: no seed is in all caches.
    """
    if config.wait_for_units is not None:
        return parse_seeds(str(config.seeds))
    is_partial = config.on_miss != "error"
    seeds_of_caches = []
    for cache in caches:
        cache_seeds = cache.seeds() if is_partial else cache.complete_seeds()
        seeds_of_caches.append(set(cache_seeds))
    if config.seeds is not None:
        seeds = parse_seeds(str(config.seeds))
    else:
        seeds = sorted(set.intersection(*seeds_of_caches))
        if seeds:
            _note_seeds(caches, seeds_of_caches, seeds)
    if not seeds:
        names = ", ".join(map(str, caches))
        in_common = " in common" if len(caches) > 1 else ""
        raise MismatchError(
            f"cache {names} has no complete seed{in_common} yet; run dump-teacher again"
        )
    if not is_partial:
        for seed in seeds:
            for cache in caches:
                cache.require_complete(seed)
    return seeds


def require_repeats(config: LoaderConfig, seeds: Sequence[int]) -> None:
    """Raise a UsageError if there are fewer seeds than a sample has in one epoch."""
    if len(seeds) < config.repeats:
        raise UsageError(
            f"repeats is {config.repeats}, and there are {len(seeds)} seeds; it needs as many"
        )


def _note_seeds(
    caches: Sequence[Cache], seeds_of_caches: Sequence[set[int]], seeds: Sequence[int]
) -> None:
    """Say which seeds a run leaves out: those that lack units, or that not all caches hold."""
    for cache in caches:
        note_left_out(cache, seeds)
    others = sorted(set.union(*seeds_of_caches) - set(seeds))
    if len(others) == 1:
        say(f"note: {named(others, 'seed')} is left out: not every cache of this run holds it")
    elif others:
        say(f"note: {named(others, 'seed')} are left out: not every cache of this run holds them")
