"""The workers of a dump, told from its commits: how fast each is, when it was last seen, if it is
lost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from kdcache.cache.writer_name import Writer, parse_writer

RECENT_SECONDS = 600.0
"""What the rate of a dump is taken over, and how long a worker of unknown pace may be silent."""
_PACE_UNITS = 10  # a worker's pace is that of its last ones
_LATE = 3.0  # times its pace that a worker may be silent; units take about equally long
_LEAST_SILENCE = 60.0  # seconds; file servers may show a new commit that late
_FORGOTTEN = (
    3600.0  # seconds of silence after which a worker is no longer listed, unless it is slow
)


class Seen(NamedTuple):
    """A commit, as far as it tells of its worker."""

    writer: str
    time: float
    """In seconds since 1970."""
    views: int


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker of a dump."""

    name: str
    """As its commits have it; empty in the first caches."""
    units: int
    """Of those that were looked at."""
    pace: float | None
    """Seconds from one of its commits to the next; None after its first one."""
    views: float
    """Of a unit, in the mean."""
    last_seen: float
    """Seconds since its last commit."""
    is_lost: bool
    """Whether it has been silent for much longer than a unit takes it."""

    @property
    def writer(self) -> Writer:
        """What its name says."""
        return parse_writer(self.name)

    @property
    def units_per_minute(self) -> float | None:
        """How fast it is, or was when it was lost."""
        if not self.pace:
            return None
        return 60 / self.pace

    @property
    def views_per_second(self) -> float | None:
        """Likewise."""
        if not self.pace:
            return None
        return self.views / self.pace

    def to_json(self) -> dict[str, Any]:
        """Return what `info --follow --json` prints of it."""
        writer = self.writer
        return {
            "name": self.name,
            "host": writer.host,
            "process": writer.process,
            "rank": writer.rank,
            "units": self.units,
            "units_per_minute": self.units_per_minute,
            "views_per_second": self.views_per_second,
            "last_seen_seconds": self.last_seen,
            "is_lost": self.is_lost,
        }


def workers_of(commits: Iterable[Seen], now: float, *, is_complete: bool = False) -> list[Worker]:
    """Return the workers that made `commits`, by rank, then by name; long gone ones are left out.

    Args:
        commits: those of late, in any order.
        now: the time, in seconds since 1970.
        is_complete: whether the dump is: then nobody is waited for.
    """
    commits_by_name: dict[str, list[Seen]] = {}
    for commit in sorted(commits, key=lambda commit: commit.time):
        commits_by_name.setdefault(commit.writer, []).append(commit)
    paces = {name: _pace(worker_commits) for name, worker_commits in commits_by_name.items()}
    usual_pace = _usual_pace(paces.values())
    workers = []
    for name, worker_commits in commits_by_name.items():
        patience = _patience(paces[name], usual_pace)
        silence = max(now - worker_commits[-1].time, 0.0)  # the clock of the storage may be ahead
        if silence > max(_FORGOTTEN, _LATE * patience):
            continue
        mean_views = sum(commit.views for commit in worker_commits) / len(worker_commits)
        workers.append(
            Worker(
                name=name,
                units=len(worker_commits),
                pace=paces[name],
                views=mean_views,
                last_seen=silence,
                is_lost=not is_complete and silence > patience,
            )
        )
    return sorted(workers, key=_by_rank)


def rate_of(times: Sequence[float], now: float) -> float:
    """Return commits per second of late, counted from the first of them.

    Args:
        times: of all commits, in seconds since 1970.
        now: likewise.
    """
    if not times:
        return 0.0
    newest = sorted(times)[-_PACE_UNITS - 1 :]
    start = min(newest[0], now - RECENT_SECONDS)  # of slow dumps, so far back that there are some
    start = max(start, min(times))
    count = 0
    for moment in times:
        count += moment > start
    return count / max(now - start, 1e-3)


def _pace(commits: Sequence[Seen]) -> float | None:
    """Return the mean seconds between the last commits of a worker; None where they do not tell."""
    last = commits[-_PACE_UNITS - 1 :]
    if last[-1].time == last[0].time:
        return None
    return (last[-1].time - last[0].time) / (len(last) - 1)


def _usual_pace(paces: Iterable[float | None]) -> float | None:
    """Return the median of the paces that are known; None if none is."""
    known_paces = [pace for pace in paces if pace is not None]
    if not known_paces:
        return None
    return median(known_paces)


def _patience(pace: float | None, usual: float | None) -> float:
    """Return how many seconds of silence are not yet too many."""
    expected = pace or usual
    if expected is None:
        return RECENT_SECONDS
    return max(_LATE * expected, _LEAST_SILENCE)


def _by_rank(worker: Worker) -> tuple[bool, int, str]:
    rank = worker.writer.rank
    return rank is None, rank or 0, worker.name
