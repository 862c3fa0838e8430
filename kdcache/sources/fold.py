"""Folds: a part of a source by the names of its samples, and all the others.

    imagefolder:/data,fold=0/5          a fifth of the samples
    imagefolder:/data,except_fold=0/5   the other four fifths

Which fold a sample is in follows from its key alone: it stays there when others come or go, and is
the same on every machine. So folds are of nearly the same size, not of the very same.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.files import Numbers
from kdcache.sources.protocol import (
    AnnotationIds,
    Contents,
    Filed,
    Listed,
    Sample,
    Source,
    annotation_ids_of,
    class_names_of,
    may_draw,
)
from kdcache.targets import task_of

OPTIONS = ("fold", "except_fold")
"""The options of any source that choose a part of it."""
_FOLD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_MOST_FOLDS = 1000


@dataclass(frozen=True)
class Fold:
    """A part of a source's samples."""

    number: int
    """From 0."""
    num_folds: int
    is_excluded: bool
    """Whether it is all but this fold."""

    def has(self, key: str) -> bool:
        """Return whether a sample of this key belongs to the part."""
        digest = hashlib.sha256(path_bytes(key)).digest()
        number = int.from_bytes(digest[:8], "little") % self.num_folds
        return (number == self.number) != self.is_excluded

    def __str__(self) -> str:
        """Return the option that says it."""
        name = OPTIONS[self.is_excluded]
        return f"{name}={self.number}/{self.num_folds}"


def take_fold(spec: Spec) -> tuple[Spec, Fold | None]:
    """Return a spec without what it says of folds, and the fold; None if it says nothing.

    Raises:
        UsageError: no fold `K/N`, or both options.
    """
    options: dict[str, Any] = dict(spec.options)
    texts = [options.pop(name, None) for name in OPTIONS]
    if texts == [None, None]:
        return spec, None
    if None not in texts:
        raise UsageError(f"source {spec} has fold and except_fold; give one of them")
    is_excluded = texts[0] is None
    text = str(texts[is_excluded])
    match = _FOLD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]) <= _MOST_FOLDS:
        raise UsageError(
            f"source {spec}: {OPTIONS[is_excluded]} is {quoted(text)}; it must be K/N, fold K of N"
            f" from 0, such as 0/5, of at most {_MOST_FOLDS}"
        )
    fold = Fold(int(match[1]), int(match[2]), is_excluded)
    return Spec(spec.name, spec.arg, options), fold


class FoldSource:
    """Some samples of a source, in its order."""

    def __init__(self, whole: Source, fold: Fold, spec: Spec) -> None:
        """Take the source.

        Raises:
            SourceError: none of its samples is in the fold.
        """
        self.spec = str(spec)
        self.task = task_of(whole)
        self.classes = whole.classes
        self.class_names = class_names_of(whole)
        self.may_draw = may_draw(whole)
        self._whole = whole
        places = [index for index, key in enumerate(_keys_of(whole)) if fold.has(key)]
        if not places:
            raise SourceError(f"source {spec} holds no sample; take another fold, or fewer folds")
        self._places = np.array(places)
        ids = annotation_ids_of(whole)
        self.annotation_ids: AnnotationIds | None = None
        if ids is not None:
            images = [ids.images[place] for place in places]
            self.annotation_ids = AnnotationIds(images, ids.categories)
        self.fingerprint = hashlib.sha256(f"{whole.fingerprint} {fold}".encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places)

    def key(self, index: int) -> str:
        """Return the name of sample `index`."""
        return self._whole.key(int(self._places[index]))

    def keys(self) -> Iterator[str]:
        """Yield the names of all samples, in order."""
        for index in range(len(self)):
            yield self.key(index)

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""
        if not isinstance(self._whole, Listed):
            return None
        return self._part(self._whole.known_targets())

    def file_sizes(self) -> Numbers | None:
        """Return the bytes of each sample's files, uint32 `[samples, files]`; None without files.

        Raises:
            SourceError: a file of which it cannot be found out.
        """
        if not isinstance(self._whole, Listed):
            return None
        return self._part(self._whole.file_sizes())

    def files(self) -> list[str]:
        """Return the paths of the files of the whole source; none if it lists none."""
        if not isinstance(self._whole, Filed):
            return []
        return list(self._whole.files())

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            UnreadableSampleError: they cannot be read.
        """
        if not isinstance(self._whole, Listed):
            return None
        return self._whole.contents(int(self._places[index]))

    def stored(self, index: int) -> bytes | None:
        """Return the file that the image of sample `index` is decoded from, where it decodes to
        just that; else None.

        Raises:
            UnreadableSampleError: the file cannot be read.
        """
        stored = getattr(self._whole, "stored", None)
        if stored is None:
            return None
        data: bytes | None = stored(int(self._places[index]))
        return data

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
        """
        place = int(self._places[index])
        if contents is None:
            return self._whole.sample(place)
        assert isinstance(self._whole, Listed), "others have no contents"
        return self._whole.sample(place, contents)

    def _part(self, values: Numbers | None) -> Numbers | None:
        """Return those of the samples of what is of all."""
        if values is None:
            return None
        part: Numbers = values[self._places]
        return part


def _keys_of(source: Source) -> Iterator[str]:
    for index in range(len(source)):
        yield source.key(index)
