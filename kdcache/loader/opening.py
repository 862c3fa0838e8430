"""Opening what a run replays: the views that its caches were made from, under their seeds, or those
of a recipe without a cache."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import Cache, open_cache
from kdcache.cache.documents.differences import Sides, recipe_differences
from kdcache.cache.local_units import LocalUnits
from kdcache.cache.opening import open_storage
from kdcache.cache.sample_checksums import checked_source
from kdcache.cache.slab_folder import SlabFolder
from kdcache.cache.source import CachedSource, local_images
from kdcache.cache.source_check import require_source, source_differences
from kdcache.cache.storage.late import late, looked_for_again
from kdcache.config.seeds import parse_seeds
from kdcache.errors import CacheError, MismatchError, UsageError
from kdcache.loader.cache_specs import CacheOptions, parse_cache
from kdcache.loader.cached_seeds import cached_seeds, require_repeats
from kdcache.loader.class_map import class_map_of
from kdcache.loader.config import LoaderConfig
from kdcache.loader.order import Blocks
from kdcache.loader.record_checks import check_tail
from kdcache.loader.replay import CacheUse, Replay
from kdcache.loader.slab_reader import await_cache
from kdcache.loader.window_reader import WindowReader
from kdcache.losses import Need
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.runtime.distributed import is_main, on_main
from kdcache.shapes import Rows
from kdcache.sources import Source, open_source
from kdcache.sources.selection import Samples, parse_samples, samples_text
from kdcache.verify.views import check_views, probed_commits
from kdcache.views import load_recipe
from kdcache.views.loading import PREFETCHED

CHECKED_VIEWS = 16
DEFAULT_WINDOW = 16
"""Units whose rows are shuffled together where images come from a bucket."""
_WINDOW_BYTES = 1_000_000_000
"""Of a window where slabs would be too large; the next one is fetched beside it."""


def open_replay(
    config: LoaderConfig,
    needs: frozenset[Need],
    *,
    source: Source | None = None,
    samples: Samples | None = None,
    check: Callable[[Cache], None] = lambda cache: None,
) -> Replay:
    """Return the views of a run, after checking that its caches are of the same ones, and some of
    them against the source.

    Args:
        config: the settings.
        needs: what the loss of the run requires.
        source: the data, opened already; by default those that the settings name.
        samples: to train on; by default those that the settings name.
        check: called with each cache as soon as it is open.

    Raises:
        UsageError: records that do not hold what the loss needs.
        MismatchError: caches of different views, or of other data than the run's.
        ViewMismatchError: views that would not be those that the teacher saw.
        KdcacheError: anything that cannot be opened.
    """
    cache_options = [_open_cache(text, config) for text in config.caches]
    for cache, options in cache_options:
        check_tail(cache, config.tail, is_mapped=options.classes is not None)
        check(cache)
    if cache_options:
        replay = _replay_of_caches(config, needs, cache_options, source)
    else:
        replay = _replay_of_recipe(config, source)
    require_repeats(config, replay.seeds)
    if samples is None:
        samples = config.samples
    return replace(replay, samples=_rows(config, replay, samples))


def _replay_of_recipe(config: LoaderConfig, source: Source | None) -> Replay:
    if config.seeds is None:
        seeds = list(range(config.epochs * config.repeats))
    else:
        seeds = parse_seeds(config.seeds)
    if source is None:
        source = open_source(str(config.data))
    recipe = load_recipe(str(config.recipe))
    return Replay(source=source, recipe=recipe, caches=[], seeds=seeds, samples=None)


def _replay_of_caches(
    config: LoaderConfig,
    needs: frozenset[Need],
    cache_options: Sequence[tuple[Cache, CacheOptions]],
    own_source: Source | None,
) -> Replay:
    caches = [cache for cache, _ in cache_options]
    first = caches[0]
    # first: what a cache holds is told without its rows, which may be said to be many
    seeds = on_main(lambda: _readable_seeds(config, caches), "the seeds that the caches hold")
    source = own_source
    if source is None:
        source = _source_of(config, first)
    units = None
    if isinstance(source, CachedSource):
        units = source.units
    uses = []
    for cache, options in cache_options:
        use = _use(config, cache, options, source)
        uses.append(use)
    if config.data or own_source is not None:
        source = checked_source(caches, source)
    for other in caches[1:]:
        _require_same_views(first, other)
    uses[0].ready(seeds[0])
    if units is not None:
        units.prefer(seeds[0])
    uses[0] = replace(uses[0], units=units)
    blocks = _blocks(config, caches, units)
    if blocks is not None:
        for number, use in enumerate(uses):
            if "teacher" in needs or use.units is not None:
                uses[number] = replace(use, stream=_stream(config, use))
    _check_views(first, source, seeds)
    return Replay(
        source=source, recipe=first.recipe, caches=uses, seeds=seeds, samples=None, blocks=blocks
    )


def _readable_seeds(config: LoaderConfig, caches: Sequence[Cache]) -> list[int]:
    """Return what `cached_seeds` does, after their commits were read: before the first epoch, not
    when a seed's turn comes."""
    seeds = cached_seeds(config, caches)
    if config.wait_for_units is None and config.on_miss == "error":
        for seed in seeds:
            for cache in caches:
                cache.commits(seed)
    return seeds


def _source_of(config: LoaderConfig, cache: Cache) -> Source:
    """Return the data that the settings name, or the images that a cache holds itself."""
    if config.data:
        return open_source(config.data)
    return CachedSource(cache)


def _rows(config: LoaderConfig, replay: Replay, samples: Samples | None) -> Rows | None:
    """Return the rows to train on, those asked for or those that every cache holds; None if these
    are all."""
    caches = [use.cache for use in replay.caches]
    source = replay.source
    if samples is None:
        return _common_rows(caches, config.caches)
    numbers = parse_samples(samples, len(source), lambda: source)
    rows = np.flatnonzero(np.isin(replay.order, numbers))
    if config.on_miss == "error":
        for cache in caches:
            _require_held(cache, rows, source, samples)
    return rows


def _common_rows(caches: Sequence[Cache], specs: Sequence[str]) -> Rows | None:
    """Return the rows that every cache holds; None if these are all."""
    if all(cache.samples is None for cache in caches):
        return None
    is_held = np.logical_and.reduce([cache.is_held for cache in caches])
    rows = np.flatnonzero(is_held)
    if not len(rows):
        raise MismatchError(f"caches {', '.join(specs)} are subsets without a sample in common")
    return rows


def _require_held(cache: Cache, rows: Rows, source: Source, samples: Samples) -> None:
    """Raise a UsageError if a subset lacks some of `rows`, those of `samples`."""
    outside = cache.order[rows[~cache.is_held[rows]]]
    if outside.size:
        sample = int(outside.min())
        raise UsageError(
            f"samples {samples_text(samples)}: cache {cache} is a subset of"
            f" {cache.manifest.num_held}"
            f" of {len(source)} samples, which does not hold sample {sample}"
            f" ({source.key(sample)}); leave --samples out to train on what it holds, or give"
            " --on-miss skip or teacher"
        )


def _stream(config: LoaderConfig, use: CacheUse) -> WindowReader:
    batches = 1 + PREFETCHED * config.compute.workers
    steps = 1 + -(-batches // config.accumulate)
    return WindowReader(
        use.cache,
        commits=use.commits,
        units=use.units,
        rows_ahead=steps * chosen(config.batch_size),
    )


def _blocks(
    config: LoaderConfig, caches: Sequence[Cache], units: LocalUnits | None
) -> Blocks | None:
    """Return the order of rows in windows of units: if it is asked for, if images are copied from a
    bucket first, or if the slab of a seed would go beyond what slabs may take."""
    window = config.window
    if window is None and units is not None and units.are_copies:
        window = DEFAULT_WINDOW
    if window is None:
        window = _window_of_large_records(caches)
    if window is None:
        return None
    sizes = {cache.manifest.unit_rows for cache in caches}
    if len(sizes) > 1:
        raise UsageError(
            f"window is {window}, and the caches' units have {sorted(sizes)} rows; they must be"
            " equal"
        )
    manifest = caches[0].manifest
    return Blocks(length=manifest.rows, unit_rows=manifest.unit_rows, window=window)


def _window_of_large_records(caches: Sequence[Cache]) -> int | None:
    """Return the units of a window where slabs would be larger than they may be, and say so; None
    where they are not."""
    for cache in caches:
        record_bytes = cache.manifest.dtype.itemsize
        slab_bytes = cache.manifest.rows * record_bytes
        if slab_bytes <= cache.slabs.limit:
            continue
        window = _WINDOW_BYTES // (cache.manifest.unit_rows * record_bytes)
        window = min(max(window, 1), DEFAULT_WINDOW)
        say(
            f"note: the slab of a seed of cache {cache} would take {slab_bytes / 1e9:.3g} GB, and"
            f" slabs may take {cache.slabs.limit / 1e9:.3g} GB: units are read {window} at a time"
            " instead, and rows shuffled among these (--window); a larger --slab-limit makes slabs"
        )
        return window
    return None


def _check_views(cache: Cache, source: Source, seeds: Sequence[int]) -> None:
    probed = probed_commits(cache, seeds, CHECKED_VIEWS)
    commits = on_main(lambda: [*probed], f"probes of cache {cache}")
    with local_images(source, commits):
        check_views(cache, source, commits, views=CHECKED_VIEWS)


def _open_cache(text: str, config: LoaderConfig) -> tuple[Cache, CacheOptions]:
    """Return the cache of `PATH[,weight=X][,classes=FILE.csv]`, and its options."""
    path, options = parse_cache(text)
    cache = _opened(path, config.wait_for_units)
    folder = Path(config.slab_dir) if config.slab_dir else None
    cache.slabs = SlabFolder(folder, round(config.slab_limit * 1e9))
    return cache, options


def _opened(path: str, wait_seconds: float | None) -> Cache:
    """Return the cache at `path`, after rank 0 has opened it: others may see it a little later."""
    storage = open_storage(path)
    main_caches: list[Cache] = []  # the one of rank 0; others have none

    def open_first() -> None:
        if wait_seconds is None:
            cache = open_cache(storage)
        else:
            cache = await_cache(storage, wait_seconds)
        _require_opening(cache)
        main_caches.append(cache)

    on_main(open_first, f"cache {path}", is_long=True)
    if is_main():
        return main_caches[0]
    cache = open_cache(late(storage))
    looked_for_again(lambda: _require_opening(cache), CacheError, f"cache {path}")
    return cache


def _require_opening(cache: Cache) -> None:
    """Read what lies beside the units: the fit of the codec, the samples of a subset, stored
    views."""
    _ = cache.codec, cache.samples
    if cache.manifest.views is not None:
        _ = cache.recipe


def _use(config: LoaderConfig, cache: Cache, options: CacheOptions, source: Source) -> CacheUse:
    """Return how a cache is used, after checking that it was made from the source."""
    require_source(cache, source)
    reading: dict[str, Any] = {
        "is_partial": config.on_miss != "error",
        "wait_seconds": config.wait_for_units,
    }
    classes = class_map_of(cache, options, source)
    return CacheUse(cache=cache, weight=options.weight, classes=classes, **reading)


def _require_same_views(first: Cache, other: Cache) -> None:
    mine = first.manifest
    its = other.manifest
    lines = source_differences(first, other)
    lines += recipe_differences(mine.recipe.to_json(), its.recipe.to_json(), Sides("there", "here"))
    if mine.order_seed != its.order_seed:
        lines.append(f"order seed {mine.order_seed} there, {its.order_seed} here")
    if mine.rows != its.rows:
        lines.append(f"number of rows {mine.rows} there, {its.rows} here")
    if lines:
        raise MismatchError(
            f"caches {first} and {other} are of different views: {joined(lines)}; "
            "dump both from the same data with the same recipe and order_seed"
        )
