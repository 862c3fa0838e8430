"""Folds: a part of a source by the names of its samples, and all the others.

    imagefolder:/data,fold=0/5          a fifth of the samples
    imagefolder:/data,except_fold=0/5   the other four fifths

Which fold a sample is in follows from its key alone: it stays there when others come or go, and is
the same on every machine. So folds are of nearly the same size, not of the very same.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.parts import PartsSource
from kdcache.sources.protocol import Source

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


def fold_of(whole: Source, fold: Fold, spec: Spec) -> PartsSource:
    """Return the samples of a source that are in a fold, in its order.

    Raises:
        SourceError: none of them is.
    """
    places = []
    for index in range(len(whole)):
        if fold.has(whole.key(index)):
            places.append(index)
    if not places:
        raise SourceError(f"source {spec} holds no sample; take another fold, or fewer folds")
    return PartsSource([(whole, np.array(places))], spec=str(spec), identity=str(fold))
