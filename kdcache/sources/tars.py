"""Source `tars`: webdataset's image tars on a local file system, read at random by offset.

    tars:/data/train-{000000..000099}.tar      tars:/data/train,target=label
    tars:/data/*.tar,classes=1000

A sample is the members of one key: its image (KEY.jpg) and its class index (KEY.cls, or with
`target=NAME` an integer in KEY.json).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import FileIO

import numpy as np

from kdcache.config.spec import Spec, Value
from kdcache.config.user_functions import check_options
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.images import decode_image
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.files import NO_FILE, Numbers
from kdcache.sources.folder_files import tell_passed_over
from kdcache.sources.protocol import Contents, Sample, Source, named, sample_name
from kdcache.sources.tar_index import Ints, Shard, index_tar
from kdcache.sources.tar_paths import find_tars, relative_names

_NUM_OPEN = 128


class TarSource:
    """The samples of some tars, in the order of their names and of the members.

    Keys are `SHARD/KEY`, where SHARD is the tar's name below the folder that all have in common.
    The fingerprint covers keys, targets and sizes of the images, wherever the tars lie; no image is
    read for it.
    """

    may_draw = False

    def __init__(self, shards: Sequence[Shard], spec: Spec, classes: int | None = None) -> None:
        self.spec = str(spec)
        self._shards = list(shards)
        self._names = relative_names(self.files())
        lengths = [len(shard.keys) for shard in shards]
        self._starts = np.cumsum([0, *lengths])
        self.classes = classes or int(self._targets().max()) + 1
        self._check_targets()
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._starts[-1])

    def key(self, index: int) -> str:
        """Return `SHARD/KEY` of sample `index`."""
        number, at = self._locate(index)
        key = self._shards[number].keys[at]
        return f"{self._names[number]}/{key}"

    def keys(self) -> Iterator[str]:
        """Yield the names of all samples, in order."""
        for name, shard in zip(self._names, self._shards, strict=True):
            for key in shard.keys:
                yield f"{name}/{key}"

    def known_targets(self) -> Numbers:
        """Return the class of each sample, uint32 `[samples]`."""
        targets: Numbers = self._targets().astype(np.uint32)
        return targets

    def _targets(self) -> Ints:
        return np.concatenate([shard.targets for shard in self._shards])

    def file_sizes(self) -> Numbers:
        """Return the bytes of each image, uint32 `[samples, 1]`, as the tars' indexes tell."""
        sizes = np.concatenate([shard.sizes for shard in self._shards])
        bounded: Numbers = np.minimum(sizes, NO_FILE - 1).astype(np.uint32)
        return bounded[:, None]

    def files(self) -> list[str]:
        """Return the paths of the tars."""
        return [shard.path for shard in self._shards]

    def contents(self, index: int) -> Contents:
        """Return the file of the image of sample `index`, see `stored`."""
        return (self.stored(index),)

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its file's `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: its tar is gone, or has changed since the source was opened.
        """
        number, at = self._locate(index)
        if contents:
            data = contents[0]
        else:
            data = self.stored(index)
        with named(self.spec, index, self.key):
            image = decode_image(data)
        return Sample(image, int(self._shards[number].targets[at]))

    def stored(self, index: int) -> bytes:
        """Return the file of the image of sample `index`.

        Raises:
            UnreadableSampleError: it cannot be read.
            SourceError: its tar is gone, or has changed since the source was opened.
        """
        number, at = self._locate(index)
        shard = self._shards[number]
        size = shard.sizes[at]
        file = _opened(shard.path, shard.stamp)
        with named(self.spec, index, self.key):
            data = os.pread(file.fileno(), size, shard.offsets[at])
        if len(data) < size:
            raise SourceError(
                f"tar {shard.path} was cut short while it was read; start again, and leave the tars"
                " alone meanwhile"
            )
        return data

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        start = int(self._starts[number])
        return number, index - start

    def _check_targets(self) -> None:
        for number, shard in enumerate(self._shards):
            wrong = np.flatnonzero(shard.targets >= self.classes)
            if len(wrong):
                at = int(wrong[0])
                index = int(self._starts[number]) + at
                name = sample_name(self.spec, index, self.key(index))
                raise SourceError(
                    f"{name} has target {shard.targets[at]}; it must be a class index from"
                    f" 0 to {self.classes - 1}"
                )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"tars {len(self)} {self.classes}\n".encode())
        for name, shard in zip(self._names, self._shards, strict=True):
            head = f"{name}\0{len(shard.keys)}\n"
            digest.update(path_bytes(head))
            for array in (shard.keys.text, shard.targets, shard.sizes):
                digest.update(np.ascontiguousarray(array).data.cast("B"))
        return digest.hexdigest()


def open_tars(spec: Spec) -> Source:
    """Return the samples of the tars that a folder, a pattern with `*` or with `{000..099}` names.

    Raises:
        SourceError: a tar is missing, cut short or otherwise not what index_tar takes.
        UsageError: an unknown option, or an address that is no local file.
    """
    classes, target, paths = checked_tars(spec)
    shards = []
    passed_over: Counter[str] = Counter()
    for path in paths:
        shard = index_tar(path, target)
        shards.append(shard)
        passed_over += shard.passed_over
    tell_passed_over(f"tars {spec.arg}", passed_over, "neither images nor targets")
    return TarSource(shards, spec, classes)


def checked_tars(spec: Spec) -> tuple[int | None, str, list[str]]:
    """Return the number of classes, the name of targets and the tars of a spec.

    Raises:
        SourceError: there is no such tar.
        UsageError: an unknown option, or an address that is no local file.
    """
    check_options(_options, spec, "source")
    return *_options(**spec.options), find_tars(spec.arg or "")


def _options(classes: Value | None = None, target: Value = "cls") -> tuple[int | None, str]:
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise UsageError(
            f"option classes of source tars is {classes!r}; it must be a number of classes"
        )
    return classes, str(target)


class _OpenTar(FileIO):
    """A tar that is closed when its last reader lets go of it, which Python would warn of."""

    def __del__(self) -> None:
        self.close()


@lru_cache(maxsize=_NUM_OPEN)
def _opened(path: str, stamp: tuple[int, int]) -> _OpenTar:
    """Return the tar, open; one that is dropped from the cache is closed when its last reader has
    let go of it.

    Raises:
        SourceError: it cannot be opened, or is another one than it was.
    """
    try:
        file = _OpenTar(path)
    except OSError as error:
        raise SourceError(f"tar {path} cannot be read: {error.strerror or error}") from error
    stat = os.fstat(file.fileno())
    if (stat.st_size, stat.st_mtime_ns) != stamp:
        file.close()
        raise SourceError(
            f"tar {path} has changed since it was indexed; start again, and leave the tars alone"
            " meanwhile"
        )
    return file
