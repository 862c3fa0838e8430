"""Sources that a user's own function gives: a map-style data set, or a whole source."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from kdcache.config.spec import Spec
from kdcache.config.user_functions import load_function, require_module
from kdcache.errors import SourceError, UsageError, quoted
from kdcache.runtime.image_items import as_image, described
from kdcache.runtime.user_code import user_code
from kdcache.sources.bare_paths import FUNCTION, NO_SOURCES
from kdcache.sources.containers import open_container
from kdcache.sources.dataset import DatasetSource, MapStyle
from kdcache.sources.listings import IS_EMPTY, lacking_attributes
from kdcache.sources.own_masks import open_own_masks
from kdcache.sources.protocol import Sample, Source, named, sample_name
from kdcache.sources.torchvision import draws_nothing
from kdcache.targets import gives_maps, target_kind, task_of
from kdcache.targets.label import integer

_MEND = "mend its code"
_OTHER_NAMES = {
    "webdataset": "tars",
    "wds": "tars",
    "tar": "tars",
    "datasets": "hf",
    "huggingface": "hf",
    "hub": "hf",
    "folder": "imagefolder",
    "image_folder": "imagefolder",
    "dir": "imagefolder",
    "ultralytics": "yolo",
    "pascal_voc": "voc",
}
"""What other tools call these sources."""


class OwnSource:
    """A whole source of a user's: what it gives and raises is checked as that of a data set."""

    def __init__(self, source: Any, spec: Spec) -> None:
        """Take the source.

        Raises:
            SourceError: it is empty, or does not say how many classes it has.
        """
        name = f"source {spec}"
        self._source = source
        self.spec = str(source.spec)
        self.classes = _checked_count(source.classes, name)
        self.fingerprint = str(source.fingerprint)
        self.task = task_of(source)
        self._kind = target_kind(self.task)
        self.class_names = getattr(source, "class_names", None)
        self._length = _checked_length(source, name)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def key(self, index: int) -> str:
        """Return the name of sample `index`.

        Raises:
            SourceError: the source raises something.
        """
        with user_code(f"key {index} of source {self.spec}", SourceError, way_out=_MEND):
            return str(self._source.key(index))

    def sample(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: the source raises something else, or gives no sample.
        """
        name = sample_name(self.spec, index, self.key(index))
        image, target = self._pair(index, name)
        checked_target = self._kind.checked(target, image, self.classes, name)
        return Sample(image, checked_target)

    def image(self, index: int) -> Image.Image:
        """Return the image of sample `index`, whatever its target is.

        Raises:
            UnreadableSampleError: it cannot be decoded.
            SourceError: the source raises something else, or gives no sample.
        """
        image, _ = self._pair(index, sample_name(self.spec, index, self.key(index)))
        return image

    def _pair(self, index: int, name: str) -> tuple[Image.Image, Any]:
        """Return the image and the target that the source gives for sample `index`."""
        with user_code(name, SourceError, way_out=_MEND), named(self.spec, index, self.key):
            image, target = self._source.sample(index)
            return as_image(image, name), target

    def stored(self, index: int) -> bytes | None:
        """Return the file that the image of sample `index` is decoded from, where the source says
        it; else None.

        Raises:
            UnreadableSampleError: the file cannot be read.
        """
        stored = getattr(self._source, "stored", None)
        if stored is None:
            return None
        name = sample_name(self.spec, index, self.key(index))
        with user_code(name, SourceError, way_out=_MEND), named(self.spec, index, self.key):
            data: bytes | None = stored(index)
            return data


def _checked_length(source: Any, name: str) -> int:
    """Return how many samples a source has.

    Raises:
        SourceError: it has none, or does not say it.
    """
    with user_code(f"{name}: its __len__", SourceError, way_out=_MEND):
        length = len(source)
    if length == 0:
        raise SourceError(f"{name} {IS_EMPTY}")
    return length


def open_own(spec: Spec, source_names: Collection[str]) -> Source:
    """Return what the user's own function gives, as a source.

    Args:
        spec: of the function.
        source_names: of kdcache's own sources.

    Raises:
        SourceError: the function raises something, or gives no data set.
        UsageError: there is no such function.
    """
    _require_function(spec, source_names)
    with user_code(f"source {spec}", SourceError, way_out=_MEND):
        with _naming_others(spec, source_names):
            data = load_function(spec, "source", source_names, error=SourceError)
        return _as_source(data, spec)


def check_own(spec: Spec, source_names: Collection[str]) -> None:
    """Check that there is a module of the name that a spec begins with; it is not imported.

    Raises:
        UsageError: there is none, or the spec names no function.
        SourceError: a package above it cannot be imported.
    """
    _require_function(spec, source_names)
    with _naming_others(spec, source_names):
        require_module(spec, "source", source_names, error=SourceError)


def _require_function(spec: Spec, source_names: Collection[str]) -> None:
    """Raise a UsageError if a spec cannot name a function of a module."""
    if not _may_be_function(spec):
        raise UsageError(f"source {spec}: {_no_source(spec, source_names)}")


def _may_be_function(spec: Spec) -> bool:
    """Return whether a spec may name a function of a module."""
    return spec.arg is None or spec.arg.isidentifier()


def as_source(data: Any) -> Source:
    """Return a data set, or a whole source, that the user's program has made, as a source.

    Its spec names its class; what tells it from other data is its fingerprint.

    Raises:
        SourceError: it is none, or empty.
    """
    kind = type(data)
    spec = Spec(kind.__module__, kind.__qualname__.rpartition(".")[2], {})
    with user_code(f"data {spec}", SourceError, way_out=_MEND):
        return _as_source(data, spec)


def _as_source(opened: Any, spec: Spec) -> Source:
    if hasattr(opened, "fingerprint"):
        _require_parts(opened, spec)
        if _is_checked(opened):
            whole: Source = opened
            return whole
        return OwnSource(opened, spec)
    container = open_container(opened, spec, _as_source)
    if container is not None:
        return container
    if gives_maps(task_of(opened)):
        return open_own_masks(opened, spec)
    source = DatasetSource(opened, spec)
    source.may_draw = not draws_nothing(opened)
    return source


def _require_parts(source: Any, spec: Spec) -> None:
    """Raise a SourceError if what a function gives has a fingerprint, and lacks a part of a
    source."""
    parts = ("spec", "classes", "__len__", "key", "sample")
    lacking = lacking_attributes(source, parts)
    if lacking:
        raise SourceError(
            f"source {spec} gives {described(source)}, which has a fingerprint and no "
            f"{', '.join(lacking)}; a source needs them all, a data set no fingerprint"
        )


def _is_checked(source: Any) -> bool:
    """Return whether a source is one of kdcache's own, which checks itself and knows its files."""
    package = type(source).__module__.partition(".")[0]
    return isinstance(source, MapStyle) or package == "kdcache"


def _checked_count(classes: Any, name: str) -> int:
    """Return how many classes a source has, as it says it.

    Raises:
        SourceError: it says no number of at least one.
    """
    count = integer(classes)
    if count is None or count < 1:
        raise SourceError(
            f"{name} says that its classes are {described(classes)}; give it an attribute"
            " `classes`, a number of at least 1"
        )
    return count


@contextmanager
def _naming_others(spec: Spec, source_names: Collection[str]) -> Iterator[None]:
    """Look for a user's function; where there is none, name the source that may be meant."""
    try:
        yield
    except UsageError as error:
        if spec.name in sys.stdlib_module_names or spec.name in NO_SOURCES:
            raise UsageError(f"source {spec}: {_no_source(spec, source_names)}") from error
        if spec.name in _OTHER_NAMES:
            raise UsageError(
                f"{error}; kdcache's own is {_OTHER_NAMES[spec.name]}:{spec.arg or '...'}"
            ) from error
        raise


def _no_source(spec: Spec, source_names: Collection[str]) -> str:
    """Return that kdcache has no source of this name, and what to write."""
    if spec.name in _OTHER_NAMES:
        name = _OTHER_NAMES[spec.name]
        return f"{spec.name} is called {name} here: write {name}:{spec.arg or '...'}"
    what = "no source"
    if spec.name in sys.stdlib_module_names:
        what = "a module of Python itself"
    if not _may_be_function(spec):
        what += f", and {quoted(spec.arg)} is no function of a module"
    names = ", ".join(sorted(source_names))
    return f"{spec.name} is {what}; known are {names}, and {FUNCTION}"
