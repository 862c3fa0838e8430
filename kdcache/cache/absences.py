"""Why a cache has no record of views that it was asked for: their samples could not be read, or
have no labels."""

from collections import Counter
from collections.abc import Iterable

from kdcache.cache.cache import Cache
from kdcache.cache.documents.commit import Commit
from kdcache.cache.prefetch import fetched
from kdcache.runtime.console import progress


def reasons_in(commits: Iterable[Commit]) -> Counter[str]:
    """Return the reasons that commits give, in their order, with the number of views of each."""
    counts: Counter[str] = Counter()
    for commit in commits:
        counts.update(absence.reason for absence in commit.absent)
    return counts


def absent_reasons(cache: Cache) -> Counter[str]:
    """Return the reasons of all absent views of a cache, with the number of views of each; every
    commit is read.

    Raises:
        DamagedUnitError: a commit cannot be read.
    """
    units = list(cache.committed())
    counts: Counter[str] = Counter()
    commits = fetched(lambda unit: cache.whole_commit(*unit), units, num_bytes=cache.commit_room)
    with progress("absent views", len(units), "commits") as bar:
        for commit in commits:
            counts.update(reasons_in([commit]))
            bar.advance(1)
    return counts
