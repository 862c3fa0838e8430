"""The list of a source, which a cache keeps beside its units: each sample's name, and what is
known of it without decoding it.

A fingerprint says that two sources differ; the list says in what.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.arrays import arrays_digest, arrays_path, damaged, num_stored_about
from kdcache.cache.documents.limits import ANY_RATIO, most_decoded, most_list_bytes
from kdcache.cache.documents.manifest import SOURCE
from kdcache.cache.documents.parts import SourceEntry
from kdcache.cache.formats.tar import UNIQUE_KEYS
from kdcache.errors import SourceError, UsageError, brief, quoted
from kdcache.runtime.console import say
from kdcache.runtime.user_code import user_code
from kdcache.sources import Source
from kdcache.sources.files import Numbers
from kdcache.sources.index_cache import Names
from kdcache.sources.protocol import Listed

_NAMES = "names"
_NUMBERS = ("sizes", "targets", "crc32c")


@dataclass(frozen=True, kw_only=True)
class SourceList:
    """What is known of the samples of a source, in its order."""

    names: Names
    sizes: Numbers | None = None
    """Bytes of each sample's files, uint32 `[samples, files]`; None without files."""
    targets: Numbers | None = None
    """Class of each sample, uint32 `[samples]`; None where that takes reading them."""
    crc32c: Numbers | None = None
    """CRC-32C of each file, or of the pixels of image and mask where a sample has no files,
    uint32 `[samples, files]`; None where they were not asked for."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a cache keeps."""
        arrays: dict[str, np.ndarray] = {_NAMES: self.names.text}
        for name in _NUMBERS:
            numbers = getattr(self, name)
            if numbers is not None:
                arrays[name] = numbers.astype("<u4")
        return arrays


@dataclass
class ListedNames:
    """The names of a cache's samples, from the list of its source."""

    spec: str
    names: Names

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self.names[index]


def list_of(source: Source) -> SourceList:
    """Return the list of a source, without the checksums.

    Raises:
        SourceError: a name that cannot be kept, or a file whose size cannot be found out.
    """
    names = names_of(source)
    if not isinstance(source, Listed):
        return SourceList(names=names)
    return SourceList(names=names, sizes=source.file_sizes(), targets=source.known_targets())


def require_unique_keys(source: Source, names: Iterable[str]) -> None:
    """Check that the samples of a source can be stored in a webdataset store, which goes by keys.

    Args:
        source: the source.
        names: of its samples, in order.

    Raises:
        UsageError: two samples have the same key.
    """
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        before = first.setdefault(name, index)
        if before != index:
            raise UsageError(
                f"samples {before} and {index} of source {brief(source.spec)} have the same key,"
                f" {quoted(name)}; {UNIQUE_KEYS}"
            )


def kept_list(listing: SourceList) -> SourceList | None:
    """Return the list, if a cache can keep it; else None, and a note says so."""
    arrays = listing.arrays
    size = sum(array.nbytes for array in arrays.values())
    most = most_list_bytes(len(listing))
    if ANY_RATIO < size <= most:
        most = min(most, most_decoded(num_stored_about(arrays)))
    if size <= most:
        return listing
    say(
        f"note: the list of the source has {size} bytes, and a cache keeps {most}: "
        "it is left out, and where data differ, no names will be told"
    )
    return None


def source_entry(source: Source, listing: SourceList | None) -> SourceEntry:
    """Return what a manifest says of a source, whose list the cache keeps if there is one."""
    entry = SourceEntry(spec=source.spec, fingerprint=source.fingerprint, classes=source.classes)
    if listing is None:
        return entry
    entry = replace(entry, list=arrays_digest(listing.arrays))
    if listing.sizes is not None:
        entry = replace(entry, sizes=sizes_digest(listing.sizes))
    if listing.crc32c is not None:
        checksums = {"crc32c": listing.crc32c.astype("<u4")}
        entry = replace(entry, contents=arrays_digest(checksums))
    return entry


def read_list(cache: Cache) -> SourceList | None:
    """Return the list of a cache's source; None if it keeps none.

    Raises:
        CacheError: the list is absent or damaged.
    """
    arrays = cache.source_arrays()
    if arrays is None:
        return None
    text = arrays.pop(_NAMES, np.empty(0))
    if not _is_list(text, arrays, cache.manifest.rows):
        raise damaged(cache.storage, SOURCE, cache.manifest.arrays[SOURCE])
    return SourceList(names=Names(text), **arrays)


def has_lost_list(cache: Cache) -> bool:
    """Return whether nothing is left of the list that a cache was made with."""
    digest = cache.manifest.source.list
    return digest is not None and not any(cache.storage.list(arrays_path(SOURCE, digest)))


def _is_list(text: np.ndarray, arrays: Mapping[str, np.ndarray], rows: int) -> bool:
    """Return whether these are the names of so many samples, and numbers of each."""
    if text.dtype != np.uint8 or text.ndim != 1 or not text.size or text[-1] != 0:
        return False
    num_names = text.size - np.count_nonzero(text)
    if num_names != rows or not arrays.keys() <= {*_NUMBERS}:
        return False
    for name, array in arrays.items():
        num_axes = 1 if name == "targets" else 2
        if array.dtype != "<u4" or array.ndim != num_axes or len(array) != rows:
            return False
    return True


def sizes_digest(sizes: Numbers) -> str:
    """Return the digest of the sizes of files alone, which a training looks at first."""
    return arrays_digest({"sizes": sizes.astype("<u4")})


def names_of(source: Source) -> Names:
    """Return the names of a source's samples.

    Raises:
        SourceError: a name that cannot be kept.
    """
    keys: Iterable[str] = (source.key(index) for index in range(len(source)))
    if isinstance(source, Listed):
        keys = source.keys()
    with user_code(f"a key of {source.spec}", SourceError):
        names = Names.of(keys)
    if len(names) != len(source):
        raise SourceError(
            f"source {source.spec} has {len(source)} samples, and {len(names)} keys where a zero "
            "character ends each; take zero characters out of the keys"
        )
    return names
