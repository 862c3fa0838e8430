"""Examples of views: what they show, what is right, what the teacher says and what students say."""

from collections.abc import Sequence

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.positions import One
from kdcache.report.caches import cache_paths
from kdcache.report.classified_examples import Classified
from kdcache.report.drawn_examples import drawn_views
from kdcache.report.example import Views
from kdcache.report.groups import Group
from kdcache.runtime.device import Compute, ComputeConfig


def looked_at(groups: Sequence[Group], compute: ComputeConfig) -> Views:
    """Return examples of views of the first cache of some groups, and what its teacher says by
    class; what cannot be had is told in `problems`."""
    for group in groups:
        paths = cache_paths(group.runs)
        if not paths:
            continue
        data = group.config.data
        try:
            cache = open_cache(paths[0])
            if cache.manifest.layout.kind == One.kind:
                return Classified(cache, data, groups, Compute(compute)).views()
            return drawn_views(cache, data, groups, Compute(compute))
        except KdcacheError as error:
            return Views(problems=[f"No examples of views: {error}"])
    return Views(problems=["No examples of views: no run reads a cache."])
