"""Engines: who computes the units of a dump. Each runs `write_units`; they differ in who is given
which unit when.

No engine keeps a queue or a state of its own: a unit is done when its commit is there, whoever made
it. So workers may start late, die or be there twice, and several engines may work on one cache.
"""

from typing import Protocol, runtime_checkable

from kdcache.cache import Cache
from kdcache.dump.config import DumpConfig
from kdcache.dump.engines.process import run_in_process
from kdcache.dump.engines.ray_cluster import require_ray
from kdcache.dump.engines.ray_pool import run_on_ray
from kdcache.dump.job import Job


@runtime_checkable
class Engine(Protocol):
    """Computes the units of a dump that are missing."""

    def __call__(self, job: Job, cache: Cache) -> int:
        """Return how many units were committed, when all are or the process was told to stop.

        Raises:
            KdcacheError: what kept a unit from being made.
        """


def open_engine(config: DumpConfig) -> Engine:
    """Return the engine that is asked for.

    Raises:
        KdcacheError: what it needs is not installed.
    """
    if config.engine == "ray":
        require_ray()
        return run_on_ray
    return run_in_process
