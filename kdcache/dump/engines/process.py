"""The engine of plain processes, one alone or those that torchrun, Slurm or a Kubernetes indexed
job started.

They need not know each other: each takes its share by its rank, then helps with what is still
missing. There is no process group, no barrier and no message. A worker that dies costs the unit in
its hands, one that joins late helps.
"""

from collections.abc import Sequence

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.job import Job
from kdcache.dump.shares import (
    UnitOrder,
    all_units,
    helping_order,
    not_committed,
    num_views,
    share,
)
from kdcache.dump.worker import write_units
from kdcache.runtime.console import log, own_name, progress
from kdcache.runtime.launch import own_place
from kdcache.runtime.stopping import stop_requested
from kdcache.runtime.wording import counted


def run_in_process(job: Job, cache: Cache) -> int:
    """Commit this process's share of the units, then what is still missing; return how many it was.

    When the process is told to stop it returns after the commit that is under way.
    """
    me = own_place()
    units = all_units(job, cache)
    own_units = share(units, me.rank, me.world_size)
    if who := own_name():
        log(who, _start_text(job, cache, own_units, len(units)))
    num_written = _write(job, cache, "dump", own_units)
    if stop_requested():
        return num_written
    missing = not_committed(cache, units)
    num_written += _write(job, cache, "help", helping_order(missing, me.rank, me.world_size))
    if who and not stop_requested():
        log(who, f"{counted(num_written, 'unit')} written here; the dump is complete")
    return num_written


def _write(job: Job, cache: Cache, title: str, units: Sequence[Unit]) -> int:
    """Commit those of the units that are missing; return how many it was."""
    todo = not_committed(cache, units)
    views = num_views(cache, todo)
    num_written = 0
    with progress(title, views, "views", is_shown=bool(todo), who=own_name()) as bar:
        if todo:
            for _ in write_units(job, cache, UnitOrder(todo), bar):
                num_written += 1
    return num_written


def _start_text(job: Job, cache: Cache, own_units: Sequence[Unit], num_units: int) -> str:
    num_present = len(own_units) - len(not_committed(cache, own_units))
    share_text = f"its share is {len(own_units)} of {num_units} units, {num_present} are there"
    return f"dump into {cache} on {job.compute.device}; {share_text}"
