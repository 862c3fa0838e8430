"""Samples that code of a user's draws: what is seeded for a view must give the same one again."""

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.runtime.generators import seeded_generators
from kdcache.sources.files import spread_places
from kdcache.sources.protocol import Source, may_draw, sample_name
from kdcache.targets import target_kind, task_of

_TRIED = 4
"""Samples that are read twice."""


def require_drawn_alike(source: Source) -> None:
    """Check that some samples of a source are the same when they are read again under the same
    seeds.

    Raises:
        SourceError: one is another, so that no student would see what a teacher saw.
    """
    if not may_draw(source):
        return
    for index in spread_places(len(source), _TRIED):
        try:
            first = _read(source, index)
            second = _read(source, index)
        except UnreadableSampleError:
            continue
        if first != second:
            name = sample_name(source.spec, index, source.key(index))
            raise SourceError(
                f"{name} is another one when it is read again: draw from random, numpy.random or"
                " torch alone, which are seeded for each view; seed any other generator from them"
            )


def _read(source: Source, index: int) -> tuple[bytes, bytes]:
    """Return the pixels of a sample, and its target, read under seeds of its own."""
    with seeded_generators(index):
        image, target = source.sample(index)
    return image.tobytes(), target_kind(task_of(source)).identity(target)
