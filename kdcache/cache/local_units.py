"""The tars of a webdataset cache as files on this machine, for a source that reads their images.

Loader workers read files here only: a store that was used before a fork does not work after it. Of
a cache in a folder they read its own tars, of one in a bucket copies that the training process
fetches before their turn.
"""

import os
import re
import struct
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress

from kdcache.cache.cache import Cache
from kdcache.cache.documents.commit import Commit
from kdcache.cache.file_lock import one_at_a_time
from kdcache.cache.formats.image_index import ImageIndex, Piece
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.formats.tar import TarFormat
from kdcache.cache.local_file import LocalFile
from kdcache.cache.prefetch import fetched
from kdcache.cache.slab_folder import INDEX, TAR
from kdcache.cache.storage.folder import Folder
from kdcache.errors import CacheError, KdcacheError, MissingUnitError, SourceError
from kdcache.runtime.console import progress
from kdcache.sources.tar_reader import TarReader

_NO_STAMP = (0, 0)
"""Of a copy, which is checked each time that it is fetched."""


class OpenTar:
    """A tar that is open, and where its images are; it is closed when nobody holds it."""

    def __init__(self, descriptor: int, index: ImageIndex) -> None:
        """Take an open file, which is closed with this."""
        self.index = index
        self._close = weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor

    def read(self, piece: Piece, name: str) -> bytes:
        """Return bytes of the tar.

        Args:
            piece: which.
            name: of the sample, for messages.

        Raises:
            SourceError: they are not what was committed.
        """
        data = os.pread(self._descriptor, piece.size, piece.offset)
        if not piece.is_of(data):
            raise SourceError(
                f"{name}: its bytes differ from what was committed, so its tar was changed since;"
                " kdcache verify says what else was"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._close()


class LocalUnits:
    """Where the tars of a cache are on this machine, and what is known of those that were
    checked."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._folder: Folder | None = None
        """The cache's own, where it is on this machine."""
        if isinstance(cache.storage, Folder):
            self._folder = cache.storage
        self._first: int | None = None
        self._copies: dict[Unit, list[LocalFile]] = {}
        """Copies in use, with their indexes."""
        self._indexes: dict[Unit, ImageIndex] = {}
        """Those for which there is no room on this machine."""

    @property
    def are_copies(self) -> bool:
        """Whether the tars must be fetched before they are there."""
        return self._folder is None

    def prefer(self, seed: int) -> None:
        """Take images from the tars of `seed`, where these are here; whatever their seeds, tars
        hold the same images."""
        self._first = self._cache.manifest.unit_seeds(seed)[0]

    def fetch(self, commit: Commit) -> bytes:
        """Return the tar of a committed unit, checked against the commit, after which its images
        can be read here.

        A copy stays here until `release`.

        Raises:
            DamagedUnitError: it is not what was committed.
            CacheError: there is no room for a copy.
        """
        unit = self._unit_of(commit)
        if self.are_copies:
            return self._copied(unit, commit)
        stamp = self._stamp(unit)
        data = self._cache.unit_bytes(commit)
        if not self._is_checked(unit, commit.sha256, stamp):
            self._keep(unit, self._index_of(commit, data, stamp))
        return data

    def release(self, commit: Commit) -> None:
        """Let the copy of a unit go, if there is one: it may be removed when there is no room for
        others."""
        for file in self._copies.pop(self._unit_of(commit), []):
            file.close()

    def prepare(self, commits: Sequence[Commit]) -> None:
        """Check the tars of these units, unless they were checked on this machine before; of copies
        `fetch` does so.

        Several processes may do so at once: each checks some of them.

        Raises:
            DamagedUnitError: a tar is not what was committed.
        """
        if self.are_copies:
            return
        unchecked = [commit for commit in commits if not self._is_known(commit)]
        if not unchecked:
            return
        largest = max(commit.num_bytes for commit in unchecked)
        with progress("check images", len(unchecked), "units") as bar:
            for _ in fetched(self._prepare, unchecked, num_bytes=largest):
                bar.advance(1)

    def open(self, unit: int) -> OpenTar:
        """Return an open tar of unit number `unit`.

        If one tar is damaged, those of other seeds may serve: they hold the same images.

        Raises:
            SourceError: no tar of it is on this machine.
            DamagedUnitError: none serves, and the first that was looked at is not what was
                committed.
        """
        damages: list[KdcacheError] = []
        for candidate in self._candidates(unit):
            try:
                tar = self._open_tar(candidate)
            except KdcacheError as error:
                damages.append(error)
                continue
            if tar is not None:
                return tar
        if damages:
            raise damages.pop(0)
        where = self._folder or self._cache.slabs.path
        raise SourceError(
            f"no tar of unit {unit} of cache {self._cache} is in {where}; run the same command"
            " again"
        )

    def _open_tar(self, unit: Unit) -> OpenTar | None:
        """Return a tar, after it was checked; None if it is not here.

        Raises:
            KdcacheError: it is damaged, or cannot be read.
        """
        try:
            descriptor = self._opened(unit)
        except (OSError, CacheError):
            return None
        try:
            index = self._checked_index(unit, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if index is None:
            os.close(descriptor)
            return None
        return OpenTar(descriptor, index)

    def _checked_index(self, unit: Unit, descriptor: int) -> ImageIndex | None:
        """Return what is known of an open tar, after it was checked; None if there is no such unit.

        Raises:
            KdcacheError: it is damaged, or cannot be read.
        """
        stamp = _NO_STAMP
        if not self.are_copies:
            status = os.fstat(descriptor)
            stamp = status.st_size, status.st_mtime_ns
        index = self._index(unit)
        if index is None or index.stamp != stamp:
            return self._index_here(unit)
        return index

    def _prepare(self, commit: Commit) -> None:
        with one_at_a_time(self._cache.slabs.path / self._name(self._unit_of(commit), INDEX)):
            if not self._is_known(commit):  # another process may have checked it by now
                self.fetch(commit)

    def _is_known(self, commit: Commit) -> bool:
        """Return whether a tar was checked, and is as it was then as far as a stat can tell."""
        unit = self._unit_of(commit)
        return self._is_checked(unit, commit.sha256, self._stamp(unit))

    def _is_checked(self, unit: Unit, sha256: str, stamp: tuple[int, int]) -> bool:
        index = self._index(unit)
        return index is not None and (index.sha256, index.stamp) == (sha256, stamp)

    def _stamp(self, unit: Unit) -> tuple[int, int]:
        """Return size and time of change of a tar in the cache's own folder; zeros if it is a copy,
        or not there."""
        if self._folder is not None:
            with suppress(OSError):
                status = (self._folder.path / self._cache.format.key(*unit)).stat()
                return status.st_size, status.st_mtime_ns
        return _NO_STAMP

    def _copied(self, unit: Unit, commit: Commit) -> bytes:
        """Return the bytes of a tar of which a copy is here afterwards."""
        slabs = self._cache.slabs
        if unit in self._copies:
            tar: LocalFile | None = self._copies[unit][0]
        else:
            tar = slabs.open(self._name(unit, TAR), is_checked=False)
        data = b""
        if tar is not None:
            data = tar.read()
        if tar is None or not commit.is_of(data):
            data = self._cache.unit_bytes(commit)
            tar = slabs.write(self._name(unit, TAR), data)
        index = slabs.open(self._name(unit, INDEX))
        if index is None or not self._is_checked(unit, commit.sha256, _NO_STAMP):
            index = self._keep(unit, self._index_of(commit, data, _NO_STAMP))
        self._copies[unit] = [tar]
        if index is not None:
            self._copies[unit].append(index)
        return data

    def _index(self, unit: Unit) -> ImageIndex | None:
        """Return what is known of a unit's tar, if anything is."""
        if unit in self._indexes:
            return self._indexes[unit]
        file = self._cache.slabs.open(self._name(unit, INDEX))
        if file is None:
            return None
        try:
            return ImageIndex.from_bytes(file.read())
        except (ValueError, struct.error):  # of another version
            return None
        finally:
            file.close()

    def _index_here(self, unit: Unit) -> ImageIndex | None:
        """Return the index of a tar in the cache's own folder, after it was checked; None if there
        is no such unit."""
        if self.are_copies:
            return None
        try:
            commit = self._cache.whole_commit(*unit)
        except MissingUnitError:
            return None
        stamp = self._stamp(unit)
        index = self._index_of(commit, self._cache.unit_bytes(commit), stamp)
        self._keep(unit, index)
        return index

    def _index_of(self, commit: Commit, data: bytes, stamp: tuple[int, int]) -> ImageIndex:
        assert isinstance(self._cache.format, TarFormat)
        try:
            index = self._cache.format.index(commit.unit, TarReader.of(data))
        except ValueError as error:
            raise SourceError(
                f"cache {self._cache}: the tar of {commit.name} is damaged: {error}"
            ) from error
        return ImageIndex.of(index, data, commit.sha256, stamp)

    def _keep(self, unit: Unit, index: ImageIndex) -> LocalFile | None:
        """Write an index down, and return its file, in use; None if there is no room for it."""
        try:
            return self._cache.slabs.write(self._name(unit, INDEX), index.to_bytes(), evicts=False)
        except CacheError:  # or a folder that cannot be written: this process goes on without
            self._indexes[unit] = index
            return None

    def _candidates(self, unit: int) -> Iterator[Unit]:
        """Yield the units of this number whose tars may be here, the preferred one first."""
        if self._first is not None:
            yield self._first, unit
        if self._folder is not None:
            others = self._units_in(self._folder, unit)
        else:
            others = self._copied_units(unit)
        for candidate in others:
            if candidate[0] != self._first:
                yield candidate

    def _units_in(self, folder: Folder, unit: int) -> Iterator[Unit]:
        """Yield the units of this number that may be in the cache's own folder."""
        for name in folder.list("shards"):
            candidate = self._cache.format.unit_of(f"shards/{name}/{unit:06d}.tar")
            if candidate is not None:
                yield candidate

    def _copied_units(self, unit: int) -> Iterator[Unit]:
        """Yield the units of this number of which copies are here."""
        form = re.compile(rf"{self._identity}-([0-9]+)-{unit:06d}\.{TAR}")
        copies = self._cache.slabs.path.glob(f"{self._identity}-*-{unit:06d}.{TAR}")
        for path in sorted(copies):
            match = form.fullmatch(path.name)
            if match:
                yield int(match[1]), unit

    def _opened(self, unit: Unit) -> int:
        if self._folder is not None:
            return self._folder.open(self._cache.format.key(*unit))
        return os.open(self._cache.slabs.path / self._name(unit, TAR), os.O_RDONLY)

    def _unit_of(self, commit: Commit) -> Unit:
        return self._cache.manifest.unit_seeds(commit.seed)[0], commit.unit

    @property
    def _identity(self) -> str:
        return self._cache.manifest.digest[:24]

    def _name(self, unit: Unit, kind: str) -> str:
        first, number = unit
        return f"{self._identity}-{first:05d}-{number:06d}.{kind}"
