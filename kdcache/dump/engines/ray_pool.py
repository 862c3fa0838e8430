"""The engine on a Ray cluster: the driver, which hands units to workers and replaces those that
die."""

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.dump.config import DumpConfig
from kdcache.dump.engines.ray_cluster import connected
from kdcache.dump.engines.ray_maker import Maker
from kdcache.dump.engines.ray_shape import pool_shape
from kdcache.dump.job import Job
from kdcache.dump.shares import all_units, not_committed, num_views, units_together
from kdcache.dump.worker import look_at_teacher
from kdcache.errors import KdcacheError
from kdcache.runtime.console import Bar, log, progress, say
from kdcache.runtime.stopping import hearing_again, stop_requested
from kdcache.runtime.wording import counted

ATTEMPTS = 3
"""Workers that may die over a unit or, for each that there should be, before any has begun."""
_MOST_UNITS = 8
"""Handed out at once: a worker renders the first views of the next while it ends one."""
_WAIT_SECONDS = 60.0
"""Without any worker, until the user is told."""
_LOOK_SECONDS = 1.0
_END_SECONDS = 10.0


def run_on_ray(job: Job, cache: Cache) -> int:
    """Commit every unit that is missing with workers on a Ray cluster; return how many they made.

    When the process is told to stop the workers are ended, with the units in their hands.

    Raises:
        KdcacheError: what a worker raised; a unit over which workers die again and again; no
            cluster.
    """
    units = all_units(job, cache, units_together(job, cache, 0, 1))
    todo = not_committed(cache, units)
    if not todo:
        return 0
    look_at_teacher(job, cache, todo[0])
    who = f"driver on {os.uname().nodename}"
    views = num_views(cache, todo)
    # once more, since Ray puts its own handler of SIGTERM in the place of others when it connects
    with (
        connected(job.config.ray) as ray,
        hearing_again(),
        progress("dump", views, "views", who=who) as bar,
    ):
        pool = _Pool(ray, job.config, cache, todo, bar)
        log(who, f"dump into {cache} by {pool}; {len(todo)} of {counted(len(units), 'unit')} to do")
        try:
            return pool.run()
        finally:
            pool.close()


@dataclass(eq=False)
class _Worker:
    actor: Any
    is_ready: bool = False
    units: list[Unit] = field(default_factory=list)
    """That it was given and has not committed."""


class _Pool:
    """The workers, what each holds, and what is still to be handed out."""

    def __init__(
        self, ray: Any, config: DumpConfig, cache: Cache, todo: Sequence[Unit], bar: Bar
    ) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shape = pool_shape(nodes, config)
        device = "cpu"
        if shape.gpus:
            device = "cuda"
        self._ray = ray
        self._cache = cache
        self._bar = bar
        self._shape = shape
        self._config = replace(config, compute=replace(config.compute, device=device))
        self._actor = ray.remote(num_gpus=shape.gpus, num_cpus=shape.cpus, max_restarts=0)(Maker)
        self._todo = deque(todo)
        self._size = min(shape.workers, len(todo))
        self._awaited: dict[Any, _Worker] = {}
        """By what Ray gives next of each worker that starts or works."""
        self._idle: list[_Worker] = []
        self._deaths: Counter[Unit | None] = Counter()
        """Over each unit; None: since a worker last began, as when those of a lost node are placed
        there once more."""
        self._written = 0

    def __str__(self) -> str:
        """Return how many workers there are to be, and what each has."""
        resources = f"{self._shape.cpus} CPU"
        if self._shape.gpus:
            resources = f"{self._shape.gpus:g} GPU, {resources}"
        return f"{counted(self._size, 'worker')} on Ray, each with {resources}"

    def run(self) -> int:
        """Hand out all units, and return how many were committed by the workers."""
        for _ in range(self._size):
            self._start()
        last_news = time.monotonic()
        while self._todo or self._is_at_work():
            self._hand_out()
            done, _ = self._ray.wait(list(self._awaited), num_returns=1, timeout=_LOOK_SECONDS)
            # looked for before a worker's death: the signal may have gone to all
            if stop_requested():
                return self._written + self._unheard()
            if done:
                self._receive(done[0])
                last_news = time.monotonic()
            elif time.monotonic() - last_news > _WAIT_SECONDS and not self._is_at_work():
                say(
                    "note: Ray has had no room for a worker so far; see ray status, or ask for less"
                    " with ray.cpus and ray.gpus"
                )
                last_news = time.monotonic()
        return self._written

    def close(self) -> None:
        """End all workers."""
        for worker in [*self._awaited.values(), *self._idle]:
            with suppress(self._ray.exceptions.RayError):  # of a cluster that is gone
                self._ray.kill(worker.actor)

    def _is_at_work(self) -> bool:
        return any(worker.units for worker in self._awaited.values())

    def _unheard(self) -> int:
        """Return how many units were committed that no worker has told; workers are ended first."""
        self.close()
        for worker in [*self._awaited.values(), *self._idle]:
            with suppress(self._ray.exceptions.RayError):  # that it is dead
                self._ray.get(worker.actor.__ray_ready__.remote(), timeout=_END_SECONDS)
        units: list[Unit] = []
        for worker in self._awaited.values():
            units += worker.units
        return len(units) - len(not_committed(self._cache, units))

    def _start(self) -> None:
        worker = _Worker(self._actor.remote())
        digest = self._cache.manifest.digest
        answer = worker.actor.start.remote(self._config, str(Path.cwd()), digest)
        self._awaited[answer] = worker

    def _hand_out(self) -> None:
        """Give units to idle workers; the fewer are left, the fewer at once, so that all are busy
        to the end."""
        while self._todo and self._idle:
            worker = self._idle.pop()
            count = max(1, min(_MOST_UNITS, len(self._todo) // (2 * self._size)))
            worker.units = [self._todo.popleft() for _ in range(min(count, len(self._todo)))]
            answers = worker.actor.make.options(num_returns="streaming").remote(worker.units)
            self._awaited[answers] = worker

    def _receive(self, answer: Any) -> None:
        """Take what a worker gives: that it is ready, what it tells of its units, or its death."""
        worker = self._awaited.pop(answer)
        try:
            if worker.is_ready:
                self._receive_unit(answer, worker)
            else:
                self._receive_start(answer, worker)
        except self._ray.exceptions.RayTaskError as error:
            if _is_for_the_user(error.cause):
                raise error.cause from None
            raise error from None
        except self._ray.exceptions.RayError as error:
            # the process or the node is gone, or cannot be reached
            self._replace(worker, _reason(error))

    def _receive_start(self, answer: Any, worker: _Worker) -> None:
        """Take that a worker is ready, or what it raised."""
        self._ray.get(answer)
        worker.is_ready = True
        self._deaths[None] = 0
        self._idle.append(worker)

    def _receive_unit(self, answers: Any, worker: _Worker) -> None:
        """Take a unit that a worker has committed, or the end of those that it was given."""
        committed = next(answers, None)
        if committed is None:
            self._take_back(worker)
            self._idle.append(worker)
            return
        self._count(self._ray.get(committed), worker)
        self._awaited[answers] = worker

    def _count(self, unit: Unit, worker: _Worker) -> None:
        worker.units.remove(unit)
        self._written += 1
        self._bar.advance(num_views(self._cache, [unit]), f"seed {unit[0]}")

    def _take_back(self, worker: _Worker) -> list[Unit]:
        """Return what a worker held and has not committed, after putting it back."""
        missing = not_committed(self._cache, worker.units)
        self._bar.advance(num_views(self._cache, worker.units) - num_views(self._cache, missing))
        self._todo.extendleft(reversed(missing))
        worker.units = []
        return missing

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Start another worker for one that died; the first unit that it held and did not commit is
        what it died over."""
        missing = self._take_back(worker)
        if missing:
            unit = missing[0]
            over = f"over unit {unit[1]} of seed {unit[0]}"
            most_deaths = ATTEMPTS
        else:
            unit = None
            over = "without a unit"
            most_deaths = ATTEMPTS * self._size
        self._ray.kill(worker.actor)
        self._deaths[unit] += 1
        if self._deaths[unit] >= most_deaths:
            raise KdcacheError(
                f"{counted(self._deaths[unit], 'worker')} on Ray died {over} (the last: {reason});"
                " give them more memory, a smaller --batch-size or fewer --workers, and run the"
                " same command again; what is committed is kept"
            )
        say(f"note: a worker on Ray died {over} ({reason}); another takes its place")
        self._start()


def _is_for_the_user(error: BaseException) -> bool:
    """Return whether what a worker raised tells by itself what is wrong."""
    return isinstance(error, KdcacheError) or type(error).__name__ == "OutOfMemoryError"


def _reason(error: Exception) -> str:
    """Return the sentence of Ray's page that says why a worker is gone."""
    lines = str(error).splitlines()
    reason = lines[0]
    for line in lines:
        if "because" in line:
            reason = line
            break
    return reason.partition(". ")[0].rstrip(".")
