"""A webdataset cache as a source: images and targets from the tars that hold the teacher's records,
and no other data."""

import shlex
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

import kdcache.views
from kdcache.cache import Cache, Commit
from kdcache.cache.local_units import LocalUnits, OpenTar
from kdcache.cache.opening import as_cache
from kdcache.cache.prefetch import fetched
from kdcache.cache.sample_checksums import checked_source
from kdcache.cache.source_check import require_source
from kdcache.errors import (
    MOST_QUOTED,
    KdcacheError,
    SourceError,
    UnreadableSampleError,
    UsageError,
    printable,
    quoted,
)
from kdcache.runtime.images import decode_stored, too_many_bytes
from kdcache.shapes import Rows, Size
from kdcache.sources import Sample, Source, source_from
from kdcache.sources.protocol import named, sample_name
from kdcache.targets import target_kind

NUM_OPEN = 64
"""Tars whose members a process knows and holds open."""
_MOST_TO_ADD = 200
"""Characters of a spec that is printed whole, as the option to add."""


def source_of(cache: Cache, data: Any = None) -> Source:
    """Return what a cache was made from: the source that the user names, or a data set of the
    user's program; by default the images that the cache holds.

    What the manifest names is never opened: it could be any file of this machine, or code.

    Raises:
        UsageError: the cache holds no images, and `data` is not given.
        MismatchError: another source.
        SourceError: it cannot be opened.
    """
    require_data(cache, data)
    if data is None:
        return CachedSource(cache)
    source = source_from(data)
    require_source(cache, source)
    return checked_source([cache], source)


def require_data(cache: Cache, data: Any) -> None:
    """Raise a UsageError if no data are named, and the cache holds no images."""
    if data is None and not cache.manifest.has_images:
        raise UsageError(_way_to_images(cache))


def views_of(
    cache: Cache | str | Path,
    data: Any = None,
    *,
    size: Size | None = None,
) -> "kdcache.views.ViewDataset":
    """Return the views that a cache was made from, to be read in a training loop of one's own.

    Args:
        cache: the cache, or its path.
        data: the data set, or its spec; by default as in `source_of`.
        size: height and width of the views, or one number; by default those that the teacher saw.

    Raises:
        UsageError: the cache holds no images, and `data` is not given.
        MismatchError: data that the cache was not made from; the message says what differs.
        SourceError: it cannot be opened.
        RecipeError: this version of kdcache would render other views.
    """
    cache = as_cache(cache)
    recipe = cache.recipe
    source = source_of(cache, data)
    view_size = size or cache.manifest.input_size
    return kdcache.views.ViewDataset(source, recipe, cache.order, sizes=[view_size])


def _way_to_images(cache: Cache) -> str:
    """Return what to add to a command that needs the images of a cache that holds none."""
    spec = cache.manifest.source.spec
    words = shlex.quote(spec)  # the user may paste it into a shell
    if len(words) > _MOST_TO_ADD or printable(words) != words:
        return (
            f"cache {cache} holds no images; add --data SPEC, of the data that it was made from"
            f" ({quoted(spec)}, it says)"
        )
    data = words
    if len(words) > MOST_QUOTED:
        data = f"other data (as it says, {quoted(spec)})"
    return (
        f"cache {cache} holds no images, and says that it was made from {data}; if that is right,"
        f" add --data {words}"
    )


@contextmanager
def local_images(source: Source, commits: Sequence[Commit]) -> Iterator[None]:
    """Have the images of some units on this machine to the end of the block, where they come from
    the cache's own tars.

    Raises:
        DamagedUnitError: a tar that is not what was committed.
        CacheError: there is no room for it.
    """
    if not isinstance(source, CachedSource):
        yield
        return
    try:
        for commit in commits:
            source.units.fetch(commit)
        yield
    finally:
        for commit in commits:
            source.units.release(commit)


class CachedNames:
    """The names of a webdataset cache's samples, from the tars of one seed."""

    def __init__(self, cache: Cache) -> None:
        """Read the tars.

        Raises:
            UsageError: a cache of which no seed is complete.
            DamagedUnitError: a unit that differs from what was committed.
        """
        self.spec = f"cache:{cache}"
        seeds = cache.complete_seeds()
        if not seeds:
            raise UsageError(
                f"cache {cache} holds no complete seed whose tars name its samples; give --data"
                " SPEC"
            )
        commits = cache.commits(seeds[0])
        largest = max(commit.num_bytes for commit in commits)
        self._keys: list[str] = []
        for keys in fetched(partial(_keys, cache), commits, num_bytes=largest):
            self._keys += keys
        self._row_of = np.argsort(cache.order)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self._keys[int(self._row_of[index])]


def _keys(cache: Cache, commit: Commit) -> list[str]:
    samples = cache.samples_of(commit, cache.unit_bytes(commit))
    return [sample.key for sample in samples]


def require_images(cache: Cache) -> None:
    """Raise a UsageError if a cache holds no images, which could be its source."""
    if not cache.manifest.has_images or cache.manifest.source.classes is None:
        raise UsageError(
            f"cache {cache} holds no images; give the data that it was made from: --data SPEC"
        )


class CachedSource:
    """The samples of a webdataset cache that holds images."""

    may_draw = False

    def __init__(self, cache: Cache) -> None:
        """Take the cache.

        Raises:
            UsageError: a cache that holds no images.
        """
        require_images(cache)
        entry = cache.manifest.source
        assert entry.classes is not None, "as that of every cache with images"
        self.spec = f"cache:{cache}"
        self.task = cache.manifest.task
        self._kind = target_kind(self.task)
        self.classes = entry.classes
        self.fingerprint = entry.fingerprint
        self.units = LocalUnits(cache)
        self._rows = cache.manifest.rows
        self._unit_rows = cache.manifest.unit_rows
        self._order = cache.order
        self._is_held = cache.is_held
        self._open: OrderedDict[int, OpenTar] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to a loader worker, which opens tars itself."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._rows

    def key(self, index: int) -> str:
        """Return the name of sample `index` in the source that the cache was made from.

        It is its number if no tar of it is here, or none that is whole.
        """
        try:
            unit, at = self._place(index)
            return self._unit(unit).index.keys[at]
        except KdcacheError:
            return f"{index:08d}"

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: it could not be read when the cache was made.
            SourceError: its tar is not on this machine; its bytes are not those that were
                committed; a class that there is not, or a mask of another image.
        """
        unit, at = self._place(index)
        data = self.stored(index)
        tar = self._unit(unit)
        stored = tar.index
        name = sample_name(self.spec, index, stored.keys[at])
        target = stored.target(at)
        target_file = b""  # of no bytes: there is none
        if target is not None:
            target_file = tar.read(target, name)
        with named(self.spec, index, self.key):
            image = decode_stored(data, stored.extensions[at])
            return Sample(image, self._kind.decode(target_file, image, self.classes, name))

    def stored(self, index: int) -> bytes:
        """Return the file of the image of sample `index`, compared with the checksum that was taken
        with the commit's.

        Raises:
            UnreadableSampleError: it could not be read when the cache was made, or is not in a
                subset.
            SourceError: its tar is not on this machine, its bytes are not those that were
                committed, or they are more than an image may have.
        """
        unit, at = self._place(index)
        tar = self._unit(unit)
        stored = tar.index
        name = f"sample {index} ({stored.keys[at]})"
        if not self._is_held[unit * self._unit_rows + at]:
            raise UnreadableSampleError(
                f"{name} is not in the subset that {self.spec} holds; give --data SPEC"
            )
        image = stored.image(at)
        if image is None:
            raise UnreadableSampleError(
                f"{name} of {self.spec} could not be read when it was dumped"
            )
        reason = too_many_bytes(image.size)
        if reason:
            raise SourceError(f"{name} of {self.spec}: {reason}; give --data SPEC")
        return tar.read(image, f"{name} of {self.spec}")

    def _place(self, index: int) -> tuple[int, int]:
        return divmod(int(self._row_of[index]), self._unit_rows)

    @cached_property
    def _row_of(self) -> Rows:
        row_of = np.empty_like(self._order)
        row_of[self._order] = np.arange(len(self._order))
        return row_of

    def _unit(self, unit: int) -> OpenTar:
        """Return the open tar of a unit; the one used least recently is closed."""
        if unit in self._open:
            self._open.move_to_end(unit)
            return self._open[unit]
        self._open[unit] = self.units.open(unit)
        if len(self._open) > NUM_OPEN:
            _, tar = self._open.popitem(last=False)
            tar.close()
        return self._open[unit]
