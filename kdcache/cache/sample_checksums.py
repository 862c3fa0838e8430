"""Checksums of what samples hold: made once before a dump, compared whenever a sample is read.

Sizes tell of most files that were overwritten; their bytes tell of all. The CRC-32C of a file is
that of its bytes, so that another image decoder changes nothing. A sample without files has that
of its decoded pixels, and that of its target.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from google_crc32c import value as crc32c

from kdcache.cache import Cache
from kdcache.cache.arrays import damaged
from kdcache.cache.documents.manifest import SOURCE
from kdcache.cache.prefetch import fetched
from kdcache.cache.source_check import WAY_OUT
from kdcache.cache.source_list import read_list
from kdcache.errors import MismatchError, UnreadableSampleError, UsageError
from kdcache.runtime.console import progress
from kdcache.runtime.generators import preserved_generators
from kdcache.runtime.images import pixel_bytes
from kdcache.sources import Sample, Source
from kdcache.sources.files import Numbers
from kdcache.sources.protocol import Contents, Filed, Listed, may_draw
from kdcache.targets import target_kind, task_of

_Checksums = list[int]
"""Of the files of a sample, or of its image and its target."""
_UNREADABLE = 0
"""The checksum of what cannot be read."""


class CheckedSource:
    """A source whose samples are compared with their checksums as they are read."""

    def __init__(self, source: Source, checksums: Numbers, origin: str) -> None:
        """Take the source.

        Args:
            source: the source.
            checksums: of its samples, uint32 `[samples, files]`.
            origin: names the cache that was made from these.
        """
        self.spec = source.spec
        self.task = task_of(source)
        self.classes = source.classes
        self.class_names = getattr(source, "class_names", None)
        self.fingerprint = source.fingerprint
        self.may_draw = may_draw(source)
        self.unchecked = source
        self._checksums = checksums
        self._origin = origin

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.unchecked)

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self.unchecked.key(index)

    def files(self) -> Iterable[str]:
        """Return the paths of the files that samples are read from, where the source knows them."""
        if not isinstance(self.unchecked, Filed):
            return ()
        return self.unchecked.files()

    def sample(self, index: int) -> Sample:
        """Return sample `index`, decoded from the very bytes that were compared.

        Raises:
            MismatchError: it is not what the cache was made from.
            UnreadableSampleError: it cannot be read.
        """
        contents = _contents(self.unchecked, index)
        if contents is None:
            sample = self.unchecked.sample(index)
            self._compare(index, _of_sample(sample, self.unchecked))
            return sample
        self._compare(index, _of_files(contents))
        assert isinstance(self.unchecked, Listed), "others have no contents"
        return self.unchecked.sample(index, contents)

    def stored(self, index: int) -> bytes | None:
        """Return the file of the image of sample `index`, where it has one.

        Raises:
            MismatchError: it is not what the cache was made from.
            UnreadableSampleError: it cannot be read.
        """
        own = getattr(self.unchecked, "stored", None)
        if own is None:
            return None
        contents = _contents(self.unchecked, index)
        if contents is not None:
            self._compare(index, _of_files(contents))
        data: bytes | None = own(index)
        return data

    def _compare(self, index: int, checksums: _Checksums) -> None:
        if _differs(self._checksums, index, checksums):
            raise MismatchError(
                f"sample {index} ({self.key(index)}) of {self.spec} is not what cache "
                f"{self._origin} was made from: its contents are others (CRC-32C); {WAY_OUT}"
            )


def checksums_of(source: Source, *, skip_unreadable: bool) -> Numbers:
    """Return the checksums of all samples, uint32 `[samples, files]`; it reads all of the data.

    Args:
        source: the source.
        skip_unreadable: whether a sample that cannot be read has the checksum 0.

    Raises:
        UnreadableSampleError: a sample that cannot be read, and is not to be skipped.
        UsageError: a data set that gives another image each time.
    """
    with preserved_generators():
        _require_still(source)
    rows = list(_all_checksums(source, skip_unreadable=skip_unreadable))
    width = max(len(row) for row in rows)
    checksums = np.full((len(rows), width), _UNREADABLE, np.uint32)
    for index, row in enumerate(rows):
        checksums[index, : len(row)] = row
    return checksums


def checked_source(caches: Sequence[Cache], source: Source) -> Source:
    """Return the source, compared with the checksums of the first of the caches that has some.

    Raises:
        CacheError: they are absent or damaged.
    """
    for cache in caches:
        if cache.manifest.source.contents is not None:
            return CheckedSource(source, _read_checksums(cache), str(cache))
    return source


def require_checksums(cache: Cache) -> None:
    """Raise a UsageError if a cache keeps no checksums of its samples."""
    if cache.manifest.source.contents is None:
        raise UsageError(
            f"cache {cache} was made without content digests, so that contents cannot be "
            "compared; a dump with --content-digests into a new cache keeps them"
        )


def changed_samples(cache: Cache, source: Source) -> list[str]:
    """Return the names of the samples that hold something else than when the cache was made.

    Raises:
        UsageError: the cache has no checksums.
        CacheError: they are absent or damaged.
    """
    require_checksums(cache)
    if isinstance(source, CheckedSource):
        source = source.unchecked
    checksums = _read_checksums(cache)
    changed: list[str] = []
    for index, row in enumerate(_all_checksums(source, skip_unreadable=True)):
        if _differs(checksums, index, row):
            changed.append(source.key(index))
    return changed


def _read_checksums(cache: Cache) -> Numbers:
    """Return the checksums that a cache keeps."""
    listing = read_list(cache)
    if listing is None or listing.crc32c is None:
        raise damaged(cache.storage, SOURCE, cache.manifest.source.list or "")
    return listing.crc32c


def _all_checksums(source: Source, *, skip_unreadable: bool) -> Iterator[_Checksums]:
    """Yield the checksums of each sample; files are read by several threads."""

    def checksums_at(index: int) -> _Checksums:
        try:
            contents = _contents(source, index)
            if contents is None:
                return _of_sample(source.sample(index), source)
            return _of_files(contents)
        except UnreadableSampleError:
            if not skip_unreadable:
                raise
            return [_UNREADABLE]

    indices = range(len(source))
    if isinstance(source, Listed) and source.file_sizes() is not None:
        rows = fetched(checksums_at, indices, num_bytes=1 << 25)
    else:
        # these run code of the user, which may not bear several threads
        rows = map(checksums_at, indices)
    with preserved_generators(), progress("checksums", len(source), "samples") as bar:
        for row in rows:
            yield row
            bar.advance(1)


def _require_still(source: Source) -> None:
    """Raise a UsageError if the first sample is another image when it is read again."""
    try:
        if _contents(source, 0) is not None:
            return
        first = _of_sample(source.sample(0), source)
        again = _of_sample(source.sample(0), source)
    except UnreadableSampleError:
        return  # which is told, or skipped, when its turn comes
    if first != again:
        raise UsageError(
            f"source {source.spec} gives another image each time that it is read, so that contents "
            "cannot be compared; leave --content-digests out"
        )


def _differs(checksums: Numbers, index: int, row: _Checksums) -> bool:
    """Return whether the checksums of a sample are others than these."""
    expected: _Checksums = checksums[index, : len(row)].tolist()
    return expected != row


def _contents(source: Source, index: int) -> Contents | None:
    if not isinstance(source, Listed):
        return None
    return source.contents(index)


def _of_files(contents: Contents) -> _Checksums:
    return [crc32c(data) for data in contents]


def _of_sample(sample: Sample, source: Source) -> _Checksums:
    kind = target_kind(task_of(source))
    target = kind.identity(sample.target)
    return [crc32c(pixel_bytes(sample.image)), crc32c(target)]
