"""The engine of plain processes, one alone or those that torchrun, Slurm or a Kubernetes indexed
job started.

They need not know each other: each takes its share by its rank, then helps with what is still
missing. There is no process group, no barrier and no message. A worker that dies costs the unit in
its hands, one that joins late helps.
"""

from collections.abc import Sequence
from itertools import chain

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.job import Job
from kdcache.dump.shares import (
    UnitOrder,
    all_units,
    grouped,
    helping_order,
    not_committed,
    num_views,
    share,
    units_together,
)
from kdcache.dump.worker import write_units
from kdcache.runtime.console import log, own_name, progress
from kdcache.runtime.launch import own_place
from kdcache.runtime.stopping import stop_requested
from kdcache.runtime.wording import counted


def run_in_process(job: Job, cache: Cache) -> int:
    """Commit this process's share of the units, then what is still missing; return how many it was.

    When the process is told to stop it returns after the commits that are under way.
    """
    me = own_place()
    num_units = len(all_units(job, cache))
    together = units_together(job, cache, num_units, me.world_size)
    units = all_units(job, cache, together)
    own_groups = share(grouped(units, together), me.rank, me.world_size)
    own_units = list(chain(*own_groups))
    if who := own_name():
        log(who, _start_text(job, cache, own_units, num_units))
    todo = not_committed(cache, own_units)
    num_written = _write(job, cache, "dump", grouped(todo, together))
    if stop_requested():
        return num_written
    missing = not_committed(cache, units)
    together = units_together(job, cache, len(missing), me.world_size)
    missing_groups = helping_order(grouped(missing, together), me.rank, me.world_size)
    num_written += _write(job, cache, "help", missing_groups)
    if who and not stop_requested():
        log(who, f"{counted(num_written, 'unit')} written here; the dump is complete")
    return num_written


def _write(job: Job, cache: Cache, title: str, groups: Sequence[Sequence[Unit]]) -> int:
    """Commit groups of units; return how many units it was."""
    views = num_views(cache, chain(*groups))
    num_written = 0
    with progress(title, views, "views", is_shown=bool(groups), who=own_name()) as bar:
        if groups:
            for _ in write_units(job, cache, UnitOrder(groups), bar):
                num_written += 1
    return num_written


def _start_text(job: Job, cache: Cache, own_units: Sequence[Unit], num_units: int) -> str:
    num_present = len(own_units) - len(not_committed(cache, own_units))
    share_text = f"its share is {len(own_units)} of {num_units} units, {num_present} are there"
    return f"dump into {cache} on {job.compute.device}; {share_text}"
