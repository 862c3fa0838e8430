"""What a source is: samples by index, a stable key for each, and a fingerprint."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

from kdcache.errors import UnreadableSampleError
from kdcache.sources.files import Numbers
from kdcache.sources.images import UNREADABLE

Contents = tuple[bytes, ...]
"""The files of one sample: of its image, and of its mask if it has one."""


class Sample(NamedTuple):
    """One image as stored, and its class index, or that of each of its pixels: an image of mode L with 255 where none is."""

    image: Image.Image
    target: int | Image.Image


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


def task_of(source: object) -> str:
    """Return `segmentation` if a source, or a data set, says that its targets are masks, else `classification`."""
    return str(getattr(source, "task", "classification"))


@contextmanager
def named(spec: str, index: int, key: Callable[[int], str]) -> Iterator[None]:
    """Turn what keeps sample `index` from being decoded into an error that names it.

    Raises:
        UnreadableSampleError: the image cannot be decoded.
    """
    try:
        yield
    except UNREADABLE as error:
        raise UnreadableSampleError(
            f"sample {index} ({key(index)}) of {spec} cannot be read: {type(error).__name__}: {error}; repair it or remove it"
        ) from error
