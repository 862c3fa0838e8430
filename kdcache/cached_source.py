"""A webdataset cache as a source: images and targets from the tars that hold the teacher's records, and no other data.

Loader workers read tars on this machine only: of a cache in a bucket the training process fetches them before their turn,
since a store that was used before a fork does not work after it.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from kdcache.cache import Cache, Commit
from kdcache.cache.fetch import fetched
from kdcache.cache.publish import Folder
from kdcache.cache.tar_store import TarFormat, UnitIndex
from kdcache.contents import checked_source
from kdcache.errors import CacheError, SourceError, UnreadableSampleError, UsageError
from kdcache.shapes import Rows, Size
from kdcache.source_check import require_source
from kdcache.sources import Sample, Source, is_images_only, open_source
from kdcache.sources.images import decode_image
from kdcache.sources.masks import decode_mask
from kdcache.sources.protocol import named
from kdcache.tar_reader import TarReader
from kdcache.views import Recipe, ViewDataset

NUM_OPEN = 64
"""Tars whose members a process knows and holds open."""


def source_of(cache: Cache, data: str | None = None) -> Source:
    """Return what a cache was made from: `data`, by default the images that it holds itself, or else what its manifest names.

    Raises:
        UsageError: opening what the manifest names could run code that a cache from elsewhere says.
        MismatchError: another source.
        SourceError: it cannot be opened.
    """
    if data is None and cache.manifest.has_images:
        return CachedSource(cache)
    spec = str(cache.manifest.source["spec"])
    if data is None and not is_images_only(spec):
        raise UsageError(f"cache {cache} was made from {spec}, which can run code; if you trust it: --data {spec}")
    source = open_source(data or spec)
    require_source(cache, source)
    return checked_source([cache], source)


def views_of(
    cache: Cache,
    data: Source | str | None = None,
    *,
    size: Size | None = None,
) -> ViewDataset:
    """Return the views that a cache was made from, to be read in a training loop of one's own.

    Args:
        cache: the cache.
        data: the source, or its spec; by default as in `source_of`.
        size: height and width of the views, or one number; by default the recipe's own.

    Raises:
        UsageError: data must be named, since opening what the manifest names could run code.
        MismatchError: data that the cache was not made from; the message says what differs.
        SourceError: it cannot be opened.
        RecipeError: this version of kdcache would render other views.
    """
    recipe = Recipe.from_dict(cache.manifest.recipe)
    if data is None or isinstance(data, str):
        source = source_of(cache, data)
    else:
        require_source(cache, data)
        source = checked_source([cache], data)
    return ViewDataset(source, recipe, cache.order, sizes=[size or recipe.size])


def fetch_images(source: Source, commits: Iterable[Commit]) -> None:
    """Have the images of some units on this machine, where they come from the cache's own tars.

    Raises:
        DamagedUnitError: a tar that is not what was committed.
        CacheError: there is no room for it.
    """
    if isinstance(source, CachedSource):
        for commit in commits:
            source.units.fetch(commit)


class LocalUnits:
    """The tars of a cache as files on this machine: where they are, or copies of those that come from a bucket."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._copies: Path | None = None if isinstance(cache.objects, Folder) else cache.slabs.path
        self._first: int | None = None

    @property
    def are_copies(self) -> bool:
        """Whether they must be fetched before they are there."""
        return self._copies is not None

    @property
    def folder(self) -> Path:
        """The folder that they are in, or below."""
        return self._copies or Path(str(self._cache))

    def prefer(self, seed: int) -> None:
        """Have images come from the tars of `seed`, where these are here: those that a run reads records from are checked."""
        self._first = self._cache.manifest.unit_seeds(seed)[0]

    def found(self, unit: int) -> Iterator[Path]:
        """Yield the tars of a unit that are on this machine; whatever their seeds, they hold the same images."""
        if self._first is not None and (preferred := self._path(self._first, unit)).exists():
            yield preferred
        yield from self.folder.glob(f"{'shards/*/' if self._copies is None else f'{self._name}-*-'}{unit:06d}.tar")

    def _path(self, first: int, unit: int) -> Path:
        """Return where the tar of a unit is, or is to be copied to, `first` being its first seed."""
        if self._copies is None:
            return self.folder / self._cache.format.key(first, unit)
        return self.folder / f"{self._name}-{first:05d}-{unit:06d}.tar"

    @property
    def _name(self) -> str:
        return self._cache.manifest.digest[:24]

    def fetch(self, commit: Commit) -> bytes:
        """Return the tar of a committed unit, checked against the commit, after which it is on this machine.

        Raises:
            DamagedUnitError: it is not what was committed.
            CacheError: there is no room for a copy.
        """
        if self._copies is None:
            return self._cache.unit_bytes(commit)
        path = self._path(self._cache.manifest.unit_seeds(commit.seed)[0], commit.unit)
        with suppress(OSError):
            data = path.read_bytes()
            if commit.is_of(data):
                os.utime(path)  # it counts as used just now
                return data
        data = self._cache.unit_bytes(commit)
        self._cache.slabs.write(path.name, data)
        return data


class CachedNames:
    """The names of a webdataset cache's samples, from the tars of one seed."""

    def __init__(self, cache: Cache) -> None:
        """Read the tars.

        Raises:
            UsageError: a cache of which no seed is complete.
            DamagedUnitError: a unit that differs from what was committed.
        """
        self.spec, seeds = f"cache:{cache}", cache.complete_seeds()
        if not seeds:
            raise UsageError(f"cache {cache} holds no complete seed whose tars name its samples; give --data SPEC")
        commits = cache.commits(seeds[0])
        near = max(commit.num_bytes for commit in commits)
        read: Iterator[list[str]] = fetched(lambda commit: _keys(cache, commit), commits, num_bytes=near)
        self._keys: list[str] = [key for keys in read for key in keys]
        self._row_of = np.argsort(cache.order)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self._keys[int(self._row_of[index])]


def _keys(cache: Cache, commit: Commit) -> list[str]:
    return [sample.key for sample in cache.samples_of(commit, cache.unit_bytes(commit))]


class CachedSource:
    """The samples of a webdataset cache that holds images."""

    def __init__(self, cache: Cache) -> None:
        """Take the cache.

        Raises:
            UsageError: a cache that holds no images.
        """
        if not cache.manifest.has_images or "classes" not in cache.manifest.source:
            raise UsageError(f"cache {cache} holds no images; give the data that it was made from: --data SPEC")
        self.spec = f"cache:{cache}"
        self.task = cache.manifest.task
        self.classes = int(cache.manifest.source["classes"])
        self.fingerprint = str(cache.manifest.source["fingerprint"])
        self._rows, self._unit_rows = cache.manifest.rows, cache.manifest.unit_rows
        self._order, self._format, self.units = cache.order, cache.format, LocalUnits(cache)
        self._is_held = cache.is_held
        self._open: OrderedDict[int, tuple[int, UnitIndex]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._rows

    def key(self, index: int) -> str:
        """Return the name of sample `index` in the source that the cache was made from; its number if its tar is not here."""
        try:
            unit, at = self._place(index)
            return self._unit(unit)[1].keys[at]
        except SourceError:
            return f"{index:08d}"

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: it could not be read when the cache was made.
            SourceError: its tar is not on this machine, or is damaged; a class that there is not, or a mask of another image.
        """
        unit, at = self._place(index)
        data = self.stored(index)
        descriptor, held = self._unit(unit)
        if (label := int(held.labels[at])) >= self.classes:
            raise SourceError(f"sample {index} of {self.spec} is of class {label}; the cache says {self.classes} classes")
        with named(self.spec, index, self.key):
            image = decode_image(data)
            if (mask := held.masks[at]) is None:
                return Sample(image, label)
            name = f"sample {index} ({held.keys[at]}) of {self.spec}"
            return Sample(image, decode_mask(os.pread(descriptor, mask.size, mask.offset), image.size, self.classes, name))

    def stored(self, index: int) -> bytes:
        """Return the file of the image of sample `index`.

        Raises:
            UnreadableSampleError: it could not be read when the cache was made, or is not in a subset.
            SourceError: its tar is not on this machine, or is damaged.
        """
        unit, at = self._place(index)
        descriptor, held = self._unit(unit)
        if not self._is_held[unit * self._unit_rows + at]:
            raise UnreadableSampleError(
                f"sample {index} ({held.keys[at]}) is not in the subset that {self.spec} holds; give --data SPEC"
            )
        if not held.sizes[at]:
            raise UnreadableSampleError(f"sample {index} ({held.keys[at]}) of {self.spec} could not be read when it was dumped")
        return os.pread(descriptor, int(held.sizes[at]), int(held.offsets[at]))

    def _place(self, index: int) -> tuple[int, int]:
        return divmod(int(self._row_of[index]), self._unit_rows)

    @cached_property
    def _row_of(self) -> Rows:
        row_of = np.empty_like(self._order)
        row_of[self._order] = np.arange(len(self._order))
        return row_of

    def _unit(self, unit: int) -> tuple[int, UnitIndex]:
        """Return the open tar of a unit and what it holds; the one used least recently is closed."""
        if unit in self._open:
            self._open.move_to_end(unit)
            return self._open[unit]
        self._open[unit] = self._opened(unit)
        if len(self._open) > NUM_OPEN:
            _, (descriptor, _) = self._open.popitem(last=False)
            os.close(descriptor)
        return self._open[unit]

    def _opened(self, unit: int) -> tuple[int, UnitIndex]:
        assert isinstance(self._format, TarFormat)
        for path in self.units.found(unit):
            try:
                descriptor = Folder(self.units.folder).open(str(path.relative_to(self.units.folder)))
            except (OSError, CacheError):
                continue
            try:
                size = os.fstat(descriptor).st_size
                tar = TarReader(lambda position, count, file=descriptor: os.pread(file, count, position), size)  # type: ignore[misc]
                return descriptor, self._format.index(unit, tar)
            except ValueError as error:
                os.close(descriptor)
                raise SourceError(f"{self.spec}: {path} is damaged: {error}; kdcache verify says what else is") from error
        raise SourceError(f"{self.spec}: no tar of unit {unit} is in {self.units.folder}; was it emptied meanwhile?")
