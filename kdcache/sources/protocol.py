"""What a source is: samples by index, a stable key for each, and a fingerprint."""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.runtime.images import UndecodableError, is_of_decoding
from kdcache.sources.files import Numbers
from kdcache.sources.sample_warnings import about_sample
from kdcache.targets import StoredTarget

Contents = tuple[bytes, ...]
"""The files of one sample: of its image, and of its mask if it has one."""


class Sample(NamedTuple):
    """One image as stored, and its class index, or that of each of its pixels: an image of mode L
    with 255 where none is; or the objects in it."""

    image: Image.Image
    target: StoredTarget


class AnnotationIds(NamedTuple):
    """The ids by which a file of annotations calls images and classes; others' tools ask for
    them."""

    images: Sequence[int]
    """Of each sample."""
    categories: Sequence[int]
    """Of each class."""


@runtime_checkable
class Source(Protocol):
    """An indexed data set."""

    spec: str
    classes: int
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of samples."""

    def key(self, index: int) -> str:
        """Return the name of sample `index`, which stays the same on every machine."""

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
        """


@runtime_checkable
class Listed(Protocol):
    """A source that tells what all its samples are without decoding one; most sources do."""

    def keys(self) -> Iterable[str]:
        """Return the names of all samples, in order."""

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""

    def file_sizes(self) -> Numbers | None:
        """Return the bytes of each sample's files, see `stat_sizes`; None if they have no files.

        Raises:
            SourceError: a file of which it cannot be found out.
        """

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            UnreadableSampleError: they cannot be read.
        """

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given."""


@runtime_checkable
class Pictured(Protocol):
    """A source that gives an image without looking at what it is labelled with."""

    def image(self, index: int) -> Image.Image:
        """Return the image of sample `index`.

        Raises:
            UnreadableSampleError: it cannot be decoded.
        """


@runtime_checkable
class Filed(Protocol):
    """A source that tells which files all its samples are read from."""

    def files(self) -> Iterable[str]:
        """Return their paths, each once; none where samples have no files, or not all are known."""


def may_draw(source: Source) -> bool:
    """Return whether a source may draw samples from the global generators, as code of a user's may;
    kdcache's own sources say by an attribute `may_draw` that they do not."""
    return bool(getattr(source, "may_draw", True))


@runtime_checkable
class Classed(Protocol):
    """What has classes, as a source; an attribute `class_names` may say what it calls them."""

    @property
    def spec(self) -> str:
        """What names it."""

    @property
    def classes(self) -> int:
        """How many there are."""


def class_names_of(source: Classed) -> tuple[str, ...] | None:
    """Return what a source calls its classes; None if it has no names, or not one for each."""
    names = getattr(source, "class_names", None)
    if names is None or len(names) != source.classes:
        return None
    return tuple(map(str, names))


def annotation_ids_of(source: Source) -> AnnotationIds | None:
    """Return the ids that a source's annotations have; None if they have none, as most."""
    ids: AnnotationIds | None = getattr(source, "annotation_ids", None)
    return ids


def image_of(source: Source, index: int) -> Image.Image:
    """Return the image of sample `index`, without its target where a source can do that.

    Raises:
        UnreadableSampleError: it cannot be decoded.
    """
    if isinstance(source, Pictured):
        return source.image(index)
    return source.sample(index).image


def splits_of(source: Source) -> tuple[str, ...]:
    """Return the names of the splits of a source's data set, its own among them; none if it does
    not tell, as most."""
    splits: tuple[str, ...] = getattr(source, "splits", ())
    return splits


def sample_name(spec: str, index: int, key: str) -> str:
    """Return what messages call a sample."""
    return f"sample {index} ({key}) of {spec}"


class named:  # noqa: N801 # a function to its callers
    """Work on sample `index`: what keeps it from being read becomes an error that names it, and so
    do warnings.

    Raises:
        UnreadableSampleError: its file is there, and cannot be decoded.
        SourceError: the system could not read it. That is a fault of the storage, or of the list of
            the samples, which says nothing about the image.
    """

    def __init__(self, spec: str, index: int, key: Callable[[int], str]) -> None:
        self._spec = spec
        self._index = index
        self._key = key
        self._warnings = about_sample(self._name)

    def _name(self) -> str:
        return sample_name(self._spec, self._index, self._key(self._index))

    def __enter__(self) -> None:
        self._warnings.__enter__()

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self._warnings.__exit__()
        if not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"{self._name()} cannot be read: {_storage_fault(error)}") from error
        if is_of_decoding(error):
            raise UnreadableSampleError(_unreadable(self._name(), error)) from error


def _unreadable(name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, UndecodableError):
        reason = str(error)
    return f"{name} cannot be read: {reason}; repair it or remove it"


def _storage_fault(error: OSError) -> str:
    what = f"{type(error).__name__}: {error.strerror or error}"
    if error.filename:
        what += f" ({error.filename})"
    if error.errno == errno.ENOENT and error.filename and os.path.islink(error.filename):  # noqa: PTH114
        target = os.readlink(error.filename)  # noqa: PTH115
        return f"it is a link to {target}, which is not there; restore that, or remove the link"
    if error.errno == errno.ENOENT:
        return f"{what}; was it moved while this ran, or is a disk or mount gone?"
    return f"{what}; the disk or mount is at fault, not the image: mend that, and run again"
