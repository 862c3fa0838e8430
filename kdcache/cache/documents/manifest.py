"""The manifest: one teacher, one source, one recipe, one codec; written once, never changed."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from PIL import features

from kdcache.cache.documents.differences import Sides, manifest_differences
from kdcache.cache.documents.document import (
    checked_content,
    digest,
    parsed,
    refuse_unknown,
    with_digest,
)
from kdcache.cache.documents.limits import (
    MOST_FIT,
    MOST_MANIFEST,
    MOST_MANIFEST_VALUES,
    check_manifest,
    commit_limits,
    most_list_bytes,
    require_known_task,
)
from kdcache.cache.documents.parts import (
    CodecEntry,
    MadeBy,
    RecipeEntry,
    SamplesEntry,
    SourceEntry,
    TeacherEntry,
    as_json,
    read_by,
    read_fields,
)
from kdcache.cache.documents.positions import layout_fields, layout_of, require_known_layout
from kdcache.codecs import codec_from_dict, codec_spec
from kdcache.errors import CacheError, CodecError, DamagedError, UsageError, quoted
from kdcache.positions import Layout, One
from kdcache.shapes import Size, as_size
from kdcache.version import __version__

FORMAT_VERSION = 1
MANIFEST = "zarr.json"
"""Its key: it stands in the attributes of the root group."""
CODEC = "codec"
SAMPLES = "samples"
"""Where arrays lie: a codec's fit, the numbers of a subset's samples."""
SOURCE = "source"
"""Where the list of the source's samples lies."""
_FREE = ("source.spec", "source.list", "teacher.spec", "made_by")
"""Fields that may differ in a cache that goes on, besides those of a recipe without effect."""
_LAYOUT = ("sites", "positions")
"""The fields of the JSON that say the layout."""
_OF_CODEC = ("codec", "record_dtype", "unit_rows", "chunk_rows", "chunk_bytes", "zstd_level")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a cache holds and how to read it.

    The first manifests lack the fields that have a default, which is what that means: at these
    values they are left out.
    """

    task: str
    classes: int
    rows: int
    """Views per seed: the length of the source."""
    source: SourceEntry = field(metadata=read_by(SourceEntry.from_json))
    order_seed: int
    """Row r is sample `row_order(rows, order_seed)[r]`."""
    recipe: RecipeEntry = field(metadata=read_by(RecipeEntry.from_json))
    teacher: TeacherEntry = field(metadata=read_by(TeacherEntry.from_json))
    codec: CodecEntry = field(metadata=read_by(CodecEntry.from_json))
    record_dtype: list[Any]
    """numpy's description of a record's fields."""
    unit_rows: int
    chunk_rows: int
    chunk_bytes: int | None = None
    """Bytes of each record in a chunk; None means all."""
    zstd_level: int = 5
    store: str = "zarr"
    """`zarr`, or `webdataset`: what objects units are."""
    seeds_per_unit: int = 1
    """Seeds whose records of a row lie in one unit; unit U of seed S is that of the first seed of
    its group."""
    has_images: bool = False
    """Whether units hold the images, too."""
    layout: Layout = field(default=One())
    """What the positions of a view's logits are, see `documents.positions`."""
    skip_unreadable: bool
    """Whether samples that cannot be read were recorded as absent instead of stopping the dump."""
    samples: SamplesEntry | None = field(default=None, metadata=read_by(SamplesEntry.from_json))
    """Of a subset; None for all."""
    made_by: MadeBy = field(metadata=read_by(MadeBy.from_json))

    @property
    def input_size(self) -> Size:
        """Height and width of the views that the teacher saw, or one number for both."""
        return as_size(self.teacher.size)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The structured dtype of a record."""
        return _dtype_of(self.record_dtype)

    @property
    def num_held(self) -> int:
        """Samples of which the cache may hold records: all, but in a subset."""
        return self.samples.count if self.samples is not None else self.rows

    @property
    def arrays(self) -> dict[str, str]:
        """Digests of the arrays that lie beside the units, by the root that they lie under."""
        digests: dict[str, str] = {}
        if self.codec.fit is not None:
            digests[CODEC] = self.codec.fit
        if self.samples is not None:
            digests[SAMPLES] = self.samples.sha256
        if self.source.list is not None:
            digests[SOURCE] = self.source.list
        return digests

    def most_bytes(self, root: str) -> int:
        """Return the bytes that these arrays may have: of a fit an axis takes a fifth of a byte of
        a record, or more."""
        if root == SAMPLES:
            return 4 * self.num_held
        if root == SOURCE:
            return most_list_bytes(self.rows)
        axes = min(5 * self.dtype.itemsize, self.classes)
        return min(MOST_FIT, axes * (2 * self.classes + 8) + 4 * self.classes + 64)

    def most_object(self, root: str) -> int:
        """Return the bytes of an object that holds one of these arrays, compressed or not."""
        size = self.most_bytes(root)
        return size + size // 128 + 1024  # what zstd cannot compress takes a little more

    @property
    def unit_bytes(self) -> int:
        """Bytes of the records of a unit, of all its seeds."""
        return self.unit_rows * self.seeds_per_unit * self.dtype.itemsize

    @property
    def commit_limits(self) -> tuple[int, int]:
        """The most bytes, and the most values, of the commit of a unit."""
        return commit_limits(self.unit_rows * self.seeds_per_unit)

    @property
    def num_units(self) -> int:
        """Units per seed."""
        return -(-self.rows // self.unit_rows)

    def unit_range(self, unit: int) -> range:
        """Return the rows of `unit`; the last one may be shorter."""
        return range(unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.rows))

    def unit_seeds(self, seed: int) -> range:
        """Return the seeds that share their units with `seed`."""
        first = seed - seed % self.seeds_per_unit
        return range(first, first + self.seeds_per_unit)

    def check(self, where: str) -> None:
        """Raise a UsageError if a cache with this manifest could not be read."""
        content = self._content()
        document = json.dumps({"attributes": {"kdcache": with_digest(content)}}, indent=2).encode()
        try:
            require_known_task(content["task"])
            require_known_layout(content.get("positions"))
            check_manifest(content)
            if len(document) > MOST_MANIFEST:
                raise ValueError(
                    f"its manifest would have {len(document)} bytes; it may have {MOST_MANIFEST}"
                )
            parsed(document, most_values=MOST_MANIFEST_VALUES)
        except ValueError as error:
            raise UsageError(f"cache {where} cannot be made: {error}") from error

    @property
    def digest(self) -> str:
        """Hash of the whole manifest."""
        return digest(self._content())

    def to_json(self) -> dict[str, Any]:
        """Return the document with its digest, `kdcache` in the root group's attributes."""
        return with_digest(self._content())

    @classmethod
    def from_json(cls, document: Any, where: str) -> "Manifest":
        """Return the manifest in `document`.

        Raises:
            CacheError: another format version, fields of a newer kdcache, or a document that is not
                what was written.
        """
        version = document.get("format_version") if isinstance(document, dict) else None
        if type(version) is int and version > FORMAT_VERSION:
            raise CacheError(
                f"cache {where} has format version {quoted(version)}; "
                f"this kdcache reads up to {FORMAT_VERSION}: upgrade kdcache"
            )
        try:
            content = checked_content(document)
            # True and 1.0 equal 1, and are not what is written
            if type(version) is not int or version < 1:
                raise ValueError(
                    f"its format_version is {quoted(version)}; it must be {FORMAT_VERSION}"
                )
            del content["format_version"]
            refuse_unknown(content, json_names(), f"cache {where}")
            _require_known(content, f"cache {where}")
            check_manifest(content)
            _check_records(content, f"cache {where}")
            return cls(**read_fields(cls, _with_layout(content)))
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(
                f"cache {where}: its manifest (zarr.json) is damaged: {error}; restore it from a"
                " copy"
            ) from error

    def differences(
        self, other: "Manifest", *, here: str = "in the cache", there: str = "now"
    ) -> list[str]:
        """Return one line for each field that decides what records mean and differs in `other`.

        Args:
            other: the other manifest.
            here: what messages call this one.
            there: what they call the other.
        """
        free = {*_FREE}
        if _unfitted(self.codec) != _unfitted(other.codec):
            free |= {*_OF_CODEC, "codec.fit"} - {"codec"}  # they follow from the codec
        sides = Sides(here, there)
        return manifest_differences(self._content(), other._content(), sides, free=free)

    @property
    def gradient_error(self) -> dict[float, float]:
        """How far the codec turned the gradient of DIST when the cache was begun, by temperature;
        empty if not known."""
        return self.made_by.errors

    @property
    def origin_error(self) -> tuple[str, dict[float, float]] | None:
        """The codec of the nearest cache that this one was recoded from and that was measured, and
        its `gradient_error`."""
        for origin in self.made_by.origins():
            if errors := origin.made_by.errors:
                return origin.codec, errors
        return None

    def with_errors(self, errors: Mapping[float, float]) -> "Manifest":
        """Return this manifest with `gradient_error`."""
        told = {f"{tau:g}": error for tau, error in errors.items()}
        made_by = dataclasses.replace(self.made_by, gradient_error=told)
        return dataclasses.replace(self, made_by=made_by)

    def with_codec_of(self, other: "Manifest", *, whichever: bool = False) -> "Manifest":
        """Return this manifest with the fit of `other`, and the layout that follows from it, if
        both have the same codec.

        With `whichever`, with its codec in any case.
        """
        if not whichever and (
            self.codec.fit is None or _unfitted(self.codec) != _unfitted(other.codec)
        ):
            return self
        return dataclasses.replace(self, **{name: getattr(other, name) for name in _OF_CODEC})

    def _content(self) -> dict[str, Any]:
        said: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if one.name == "layout":
                said |= layout_fields(value)
            elif value != one.default:
                said[one.name] = as_json(value)
        content: dict[str, Any] = json.loads(json.dumps(said))
        return content


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of everything that can change a pixel or a logit.

    JPEG leaves the last bit of a pixel to the decoder, and Pillow comes with one or takes the
    system's.
    """
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "zarr")
    own = {"kdcache": __version__, "python": platform.python_version()}
    turbo = features.version_feature("libjpeg_turbo")
    jpeg = f"turbo {turbo}" if turbo else str(features.version_codec("jpg"))
    return {**own, **{name: metadata.version(name) for name in names}, "libjpeg": jpeg}


def _require_known(content: Mapping[str, Any], where: str) -> None:
    """Raise a CacheError if a manifest is for a task, or for positions, that this version does not
    know: a newer one may."""
    try:
        require_known_task(content.get("task"))
        require_known_layout(content.get("positions"))
    except ValueError as error:
        raise CacheError(f"{where}: {error}") from error


def _check_records(content: Mapping[str, Any], where: str) -> None:
    """Check that the codec is known, and that the records are its own, as far as that does not take
    its fit.

    Raises:
        CacheError: a codec or an option that this version does not know.
        ValueError: a fit where there can be none, or records of another codec.
    """
    stored = content["codec"]
    try:
        codec = codec_from_dict(stored, classes=content["classes"], layout=layout_of(content))
    except (UsageError, CodecError) as error:
        raise CacheError(
            f"{where}: its codec cannot be opened: {error}; use the kdcache that wrote it"
        ) from error
    needs_fit = codec.record_dtype.itemsize == 0
    if needs_fit != ("fit" in stored):
        what = "no fit, which it needs" if needs_fit else "a fit, which it does not need"
        raise ValueError(f"codec {codec.name} has {what}")
    found = _dtype_of(content["record_dtype"])
    if not needs_fit and found != codec.record_dtype:
        raise ValueError(
            f"its records {quoted(found)} are not those of {codec_spec(codec)},"
            f" {quoted(codec.record_dtype)}"
        )


def _dtype_of(fields: list[Any]) -> "np.dtype[Any]":
    return np.dtype(
        [
            tuple(tuple(part) if isinstance(part, list) else part for part in field)
            for field in fields
        ]
    )


def _unfitted(codec: CodecEntry) -> CodecEntry:
    return dataclasses.replace(codec, fit=None)


def json_names() -> list[str]:
    """Return the names in the JSON of a manifest, but for its version and its digest."""
    names = [one.name for one in dataclasses.fields(Manifest) if one.name != "layout"]
    return [*names, *_LAYOUT]


def _with_layout(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the JSON says, with the layout in the place of the fields that say it."""
    others = {name: value for name, value in content.items() if name not in _LAYOUT}
    return {**others, "layout": layout_of(content)}
