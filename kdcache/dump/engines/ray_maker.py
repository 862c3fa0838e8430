"""A worker on a Ray cluster: what runs in an actor, with a teacher of its own."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdcache.cache import open_cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import prepare
from kdcache.dump.shares import UnitOrder, grouped, units_together
from kdcache.dump.worker import write_units
from kdcache.errors import KdcacheError
from kdcache.runtime.console import progress


class Maker:
    """What runs in an actor: a job made ready, and units of it."""

    def start(self, config: DumpConfig, folder: str, digest: str) -> None:
        """Make the job ready, in the working folder of the command.

        Args:
            config: the dump.
            folder: the working folder.
            digest: that of the manifest under which the command writes; a worker begins no cache.

        Raises:
            KdcacheError: anything that is absent here, or is not as it is where the command runs.
        """
        if not Path(folder).is_dir():
            raise KdcacheError(
                f"node {os.uname().nodename} has no folder {folder}, in which the command runs;"
                " choose one that all nodes share"
            )
        os.chdir(folder)
        self.cache = open_cache(config.cache)
        if self.cache.manifest.digest != digest:
            raise KdcacheError(
                f"node {os.uname().nodename} finds another cache in {self.cache} than the command; "
                "choose a folder that all nodes share"
            )
        self.cache.storage.probe()
        self.job = prepare(config)
        self.cache.require(self.job.manifest.with_codec_of(self.cache.manifest))

    def make(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Commit `units`, and yield each that is."""
        together = units_together(self.job, self.cache, len(units), 1)
        with progress("dump", 0, "views", is_shown=False) as bar:
            order = UnitOrder(grouped(units, together))
            yield from write_units(self.job, self.cache, order, bar)
