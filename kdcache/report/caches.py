"""What a page says of the caches that runs were trained from; read from their listings and commits,
without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdcache.cache import Cache, open_cache
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.protocol import is_address
from kdcache.errors import KdcacheError
from kdcache.loader.cache_specs import CacheOptions, parse_cache
from kdcache.positions import Layout, One
from kdcache.report.runs import Run
from kdcache.runtime.wording import counted, human_bytes, percent_done, ranges
from kdcache.tools.info import MOST_READ, describe


@dataclass(frozen=True, kw_only=True)
class CacheFacts:
    """A cache, or why there is nothing to say of it."""

    path: str
    facts: Sequence[tuple[str, str]] = ()
    """Title and text of each."""
    problem: str = ""
    statistics: dict[str, float] = field(default_factory=dict)
    """Means over its views, as its commits have them: `confidence`, `accuracy` and others."""


def used_caches(runs: Sequence[Run]) -> dict[str, CacheOptions]:
    """Return where the caches of some runs lie, and what the first run that reads it says of
    each."""
    caches: dict[str, CacheOptions] = {}
    for run in runs:
        for text in run.config.caches:
            path, options = parse_cache(text)
            caches.setdefault(path, options)
    return caches


def cache_facts(path: str) -> CacheFacts:
    """Return what a cache holds; of one that is in a bucket, or cannot be opened, why nothing."""
    if is_address(path):
        return CacheFacts(path=path, problem="It is in a bucket; kdcache info tells what it holds.")
    try:
        cache = open_cache(path)
        description = describe(cache)
        statistics = _statistics(cache)
    except KdcacheError as error:
        return CacheFacts(path=path, problem=f"It cannot be looked at here: {error}")
    manifest = cache.manifest
    size = human_bytes(description["bytes"])
    per_view = description["bytes_per_view"]
    if per_view is not None:
        size += f", {per_view:.1f} bytes a view"
    facts = [
        ("teacher", manifest.teacher.spec),
        ("codec", description["codec"]),
        ("size", size),
        ("coverage", _coverage_text(description)),
        ("samples", f"{manifest.num_held:,} of {counted(manifest.classes, 'class')}"),
        ("recipe", manifest.recipe.name),
        ("task", manifest.task),
    ]
    if description["absent"]:
        facts.append(("absent", f"{counted(description['absent'], 'view')} could not be read"))
    facts += _statistics_facts(statistics, manifest.layout)
    return CacheFacts(path=path, facts=facts, statistics=statistics)


def _coverage_text(description: dict[str, object]) -> str:
    done = description["units_done"]
    total = description["units_asked"]
    seeds = description["seeds"]
    assert isinstance(done, int) and isinstance(total, int) and isinstance(seeds, list)
    share = percent_done(done, total)
    return f"{share} of {counted(len(seeds), 'seed')} ({ranges(seeds)}), {done} of {total} units"


def _statistics(cache: Cache) -> dict[str, float]:
    """Return the means of what the commits say of their views; of many units some are read."""
    units = cache.units()
    stride = -(-len(units) // MOST_READ) or 1
    commits = fetched(
        lambda unit: cache.whole_commit(*unit), units[::stride], num_bytes=cache.commit_room
    )
    parts = []
    for commit in commits:
        num_present = commit.stop - commit.start - len(commit.absent)
        parts.append((commit.statistics, num_present))
    return mean_statistics(parts)


def _statistics_facts(statistics: dict[str, float], layout: Layout) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if "confidence" in statistics:
        facts.append(("teacher's confidence", f"{100 * statistics['confidence']:.1f} % on average"))
    if "accuracy" in statistics:
        places = "places with a label"
        if layout.kind == One.kind:
            places = "views"
        facts.append(("teacher's accuracy", f"{statistics['accuracy']:.2f} % of the {places}"))
    if "std" in statistics:
        facts.append(("spread of its logits", f"{statistics['std']:.2f}, the deviation in a row"))
    return facts
