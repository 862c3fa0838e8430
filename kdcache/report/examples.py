"""Examples of views: what they show, what is right, what the teacher says and what students say."""

from collections.abc import Sequence

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.positions import One
from kdcache.report.caches import used_caches
from kdcache.report.classified_examples import Classified
from kdcache.report.drawn_examples import drawn_views
from kdcache.report.example import Views
from kdcache.report.groups import Group
from kdcache.runtime.device import Compute, ComputeConfig


def looked_at(groups: Sequence[Group], compute: ComputeConfig) -> Views:
    """Return examples of views of the first cache of some groups, and what its teacher says by
    class; what cannot be had is told in `problems`."""
    for group in groups:
        caches = used_caches(group.runs)
        if not caches:
            continue
        path, options = next(iter(caches.items()))
        data = group.config.data
        try:
            cache = open_cache(path)
            if cache.manifest.layout.kind == One.kind:
                views = Classified(cache, data, groups, Compute(compute), options=options)
                return views.views()
            return drawn_views(cache, data, groups, Compute(compute), options=options)
        except KdcacheError as error:
            return Views(problems=[f"No examples of views: {error}"])
    return Views(problems=["No examples of views: no run reads a cache."])
