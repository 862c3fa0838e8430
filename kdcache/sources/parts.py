"""A source made of samples of others: some of one, or those of several after one another."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kdcache.errors import SourceError
from kdcache.sources.files import Numbers
from kdcache.sources.listings import IS_EMPTY
from kdcache.sources.protocol import (
    AnnotationIds,
    Contents,
    Filed,
    Listed,
    Sample,
    Source,
    annotation_ids_of,
    class_names_of,
    image_of,
    may_draw,
)
from kdcache.targets import task_of

Places = np.ndarray[Any, np.dtype[np.int64]]
"""Numbers of samples in a source, int64 `[samples]`."""


class PartsSource:
    """Some samples of one source or of several, those of each side by side."""

    def __init__(
        self, parts: Sequence[tuple[Source, Places]], *, spec: str, identity: str | None = None
    ) -> None:
        """Take the sources.

        Args:
            parts: sources of one task and of the same classes, each with the places of the samples
                that are taken of it.
            spec: names the whole.
            identity: says which samples they are, for the fingerprint; by default their places do.

        Raises:
            SourceError: there is no sample, or the sources have other tasks or classes.
        """
        _require_alike([source for source, _ in parts], spec)
        first, _ = parts[0]
        self.spec = spec
        self.task = task_of(first)
        self.classes = first.classes
        self.class_names = class_names_of(first)
        self.may_draw = any(may_draw(source) for source, _ in parts)
        self.annotation_ids: AnnotationIds | None = None
        self._sources = [source for source, _ in parts]
        self._part_of = np.repeat(np.arange(len(parts)), [len(places) for _, places in parts])
        self._place_of = np.concatenate([places for _, places in parts])
        if not len(self._place_of):
            raise SourceError(f"source {spec} {IS_EMPTY}")
        if len(parts) == 1:
            self.annotation_ids = self._ids(annotation_ids_of(first))
        self.fingerprint = self._fingerprint(identity)

    def _fingerprint(self, identity: str | None) -> str:
        prints = " ".join(source.fingerprint for source in self._sources)
        if identity is not None:
            return hashlib.sha256(f"{prints} {identity}".encode()).hexdigest()
        digest = hashlib.sha256(f"{prints} ".encode())
        for numbers in (self._part_of, self._place_of):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def _ids(self, ids: AnnotationIds | None) -> AnnotationIds | None:
        if ids is None:
            return None
        images = [ids.images[place] for place in self._place_of.tolist()]
        return AnnotationIds(images, ids.categories)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._place_of)

    def key(self, index: int) -> str:
        """Return the name of sample `index`; of several sources, after the number of its own."""
        source, place = self._at(index)
        if len(self._sources) == 1:
            return source.key(place)
        return f"{self._part_of[index]}/{source.key(place)}"

    def keys(self) -> Iterator[str]:
        """Yield the names of all samples, in order."""
        for index in range(len(self)):
            yield self.key(index)

    def known_targets(self) -> Numbers | None:
        """Return the class of each sample, uint32 `[samples]`; None if that takes reading them."""
        return self._of_all(lambda source: source.known_targets())

    def file_sizes(self) -> Numbers | None:
        """Return the bytes of each sample's files, uint32 `[samples, files]`; None without files.

        Raises:
            SourceError: a file of which it cannot be found out.
        """
        return self._of_all(lambda source: source.file_sizes())

    def files(self) -> list[str]:
        """Return the paths of the files of the whole sources; none if one of them lists none."""
        paths: list[str] = []
        for source in self._sources:
            own_paths = [*source.files()] if isinstance(source, Filed) else []
            if not own_paths:
                return []
            paths += own_paths
        return [*dict.fromkeys(paths)]

    def contents(self, index: int) -> Contents | None:
        """Return the files of sample `index`; None if it has none.

        Raises:
            UnreadableSampleError: they cannot be read.
        """
        source, place = self._at(index)
        if not isinstance(source, Listed):
            return None
        return source.contents(place)

    def stored(self, index: int) -> bytes | None:
        """Return the file that the image of sample `index` is decoded from, where it decodes to
        just that; else None.

        Raises:
            UnreadableSampleError: the file cannot be read.
        """
        source, place = self._at(index)
        stored = getattr(source, "stored", None)
        if stored is None:
            return None
        data: bytes | None = stored(place)
        return data

    def image(self, index: int) -> Image.Image:
        """Return the image of sample `index`, without its target where its source can do that.

        Raises:
            UnreadableSampleError: it cannot be decoded.
        """
        return image_of(*self._at(index))

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
        """
        source, place = self._at(index)
        if contents is None:
            return source.sample(place)
        assert isinstance(source, Listed), "others have no contents"
        return source.sample(place, contents)

    def _at(self, index: int) -> tuple[Source, int]:
        """Return the source of a sample, and its place there."""
        return self._sources[self._part_of[index]], int(self._place_of[index])

    def _of_all(self, values_of: Callable[[Listed], Numbers | None]) -> Numbers | None:
        """Return the values of all samples; None if a source does not tell them, or not as many of
        each sample as the others."""
        values: list[Numbers] = []
        for number, source in enumerate(self._sources):
            own_values = values_of(source) if isinstance(source, Listed) else None
            if own_values is None:
                return None
            values.append(own_values[self._place_of[self._part_of == number]])
        if len({part.shape[1:] for part in values}) > 1:
            return None
        return np.concatenate(values)


def _require_alike(sources: Sequence[Source], spec: str) -> None:
    """Raise a SourceError if sources have other tasks or classes than the first of them."""
    if not sources:
        raise SourceError(f"source {spec} {IS_EMPTY}")
    facts = [(task_of(source), source.classes, class_names_of(source)) for source in sources]
    for source, own_facts in zip(sources, facts, strict=True):
        if own_facts[:2] != facts[0][:2]:
            raise SourceError(
                f"source {spec} joins {sources[0].spec}, of {facts[0][1]} classes for"
                f" {facts[0][0]}, and {source.spec}, of {own_facts[1]} for {own_facts[0]}; join"
                " those of the same classes"
            )
        if own_facts[2] != facts[0][2]:
            raise SourceError(
                f"source {spec} joins {sources[0].spec} and {source.spec}, whose classes have other"
                " names; join those of the same classes"
            )
