"""The manifest: one teacher, one source, one recipe, one codec; written once, never changed."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcache.cache.documents.differences import Sides, manifest_differences
from kdcache.cache.documents.document import (
    Content,
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
from kdcache.cache.documents.manifest_checks import (
    FORMAT_VERSION,
    check_records,
    dtype_of,
    require_known,
    version_of,
)
from kdcache.cache.documents.parts import (
    CodecEntry,
    MadeBy,
    RecipeEntry,
    SamplesEntry,
    SourceEntry,
    TeacherEntry,
    ViewsEntry,
    as_json,
    read_by,
    read_fields,
)
from kdcache.cache.documents.positions import layout_fields, layout_of, require_known_layout
from kdcache.cache.storage.protocol import removal
from kdcache.errors import DamagedError, UsageError, quoted
from kdcache.models.weight_record import cached_as
from kdcache.positions import Layout, One
from kdcache.shapes import Size, as_size

MANIFEST = "zarr.json"
"""Its key: it stands in the attributes of the root group."""
CODEC = "codec"
SAMPLES = "samples"
"""Where arrays lie: a codec's fit, the numbers of a subset's samples."""
SOURCE = "source"
"""Where the list of the source's samples lies."""
VIEWS = "views"
"""Where stored views lie."""
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
    views: ViewsEntry | None = field(default=None, metadata=read_by(ViewsEntry.from_json))
    """Stored views that the recipe names; None of a recipe that names none."""
    made_by: MadeBy = field(metadata=read_by(MadeBy.from_json))

    @property
    def input_size(self) -> Size:
        """Height and width of the views that the teacher saw, or one number for both."""
        return as_size(self.teacher.size)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The structured dtype of a record."""
        return dtype_of(self.record_dtype)

    @property
    def row_width(self) -> int:
        """How many logits a position has: one a class, and of some detectors one of the
        background."""
        return self.layout.row_width(self.classes)

    @property
    def num_held(self) -> int:
        """Samples of which the cache may hold records: all, but in a subset."""
        if self.samples is None:
            return self.rows
        return self.samples.count

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
        if self.views is not None:
            digests[VIEWS] = self.views.sha256
        return digests

    def most_bytes(self, root: str) -> int:
        """Return the bytes that these arrays may have: of a fit an axis takes a fifth of a byte of
        a record, or more."""
        if root == SAMPLES:
            return 4 * self.num_held
        if root == SOURCE:
            return most_list_bytes(self.rows)
        if root == VIEWS:
            assert self.views is not None, "it names them"
            return self.views.view_bytes * self.views.seeds * self.rows
        width = self.row_width
        num_axes = min(5 * self.dtype.itemsize, width)
        size = num_axes * (4 * width + 8) + 4 * width + 64
        return min(MOST_FIT, size)

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
        first = unit * self.unit_rows
        return range(first, min(first + self.unit_rows, self.rows))

    def unit_seeds(self, seed: int) -> range:
        """Return the seeds that share their units with `seed`."""
        first = seed - seed % self.seeds_per_unit
        return range(first, first + self.seeds_per_unit)

    def check(self, where: str) -> None:
        """Raise a UsageError if a cache with this manifest could not be read."""
        content = self._content()
        attributes = {"kdcache": with_digest(content)}
        document = json.dumps({"attributes": attributes}, indent=2).encode()
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
        where = f"cache {where}"
        version = version_of(document, where)
        try:
            content = checked_content(document)
            # True and 1.0 equal 1, and are not what is written
            if type(version) is not int or version < 1:
                raise ValueError(
                    f"its format_version is {quoted(version)}; it must be {FORMAT_VERSION}"
                )
            del content["format_version"]
            refuse_unknown(content, json_names(), where)
            require_known(content, where)
            check_manifest(content)
            check_records(content, where)
            return cls(**read_fields(cls, _with_layout(content)))
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(
                f"{where}: its manifest (zarr.json) is damaged: {error}; restore it from a copy"
            ) from error

    def differences(
        self, other: "Manifest", *, own_place: str = "in the cache", other_place: str = "now"
    ) -> list[str]:
        """Return one line for each field that decides what records mean and differs in `other`.

        Args:
            other: the other manifest.
            own_place: how messages say where this one is.
            other_place: how they say where the other is.
        """
        free_names = {*_FREE}
        if _unfitted(self.codec) != _unfitted(other.codec):
            free_names |= {*_OF_CODEC, "codec.fit"} - {"codec"}  # they follow from the codec
        sides = Sides(own_place, other_place)
        return manifest_differences(
            self._compared(), other._compared(), sides, free_names=free_names
        )

    def way_out(self, other: "Manifest", place: str, *, has_units: bool) -> str:
        """Return what to do where records made under `other` do not belong into this cache.

        Args:
            other: the other manifest.
            place: of the cache, a path or an address.
            has_units: whether the cache holds a unit. Without one it is not begun anew all the
                same: nothing tells whether somebody is at work on its first.
        """
        if self.samples is not None and other.samples is None:
            return (
                "it is a subset, which holds what was exported into it; dump into the cache that it"
                " came from"
            )
        if not has_units:
            return (
                f"it holds no unit yet: if no other dump is at work on it, {removal(place)}, and"
                " run the same command again"
            )
        if self.skip_unreadable != other.skip_unreadable:
            return (
                "choose a new folder, or the same setting: skip_unreadable holds for a whole cache,"
                " since its readers and other writers rely on it"
            )
        return "choose a new folder, or the same settings"

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
            errors = origin.made_by.errors
            if errors:
                return origin.codec, errors
        return None

    def with_errors(self, errors: Mapping[float, float]) -> "Manifest":
        """Return this manifest with `gradient_error`."""
        table = {f"{tau:g}": error for tau, error in errors.items()}
        made_by = dataclasses.replace(self.made_by, gradient_error=table)
        return dataclasses.replace(self, made_by=made_by)

    def with_codec_of(self, other: "Manifest", *, whichever: bool = False) -> "Manifest":
        """Return this manifest with the fit of `other`, and the layout that follows from it, if
        both have the same codec.

        With `whichever`, with its codec in any case.
        """
        is_same = _unfitted(self.codec) == _unfitted(other.codec)
        if not whichever and (self.codec.fit is None or not is_same):
            return self
        values = {name: getattr(other, name) for name in _OF_CODEC}
        return dataclasses.replace(self, **values)

    def _compared(self) -> dict[str, Any]:
        """Return the content, of the teacher's spec only what decides its logits."""
        content = self._content()
        architecture = self.teacher.architecture
        if architecture is not None:
            content["teacher"]["architecture"] = cached_as(architecture)
        return content

    def _content(self) -> dict[str, Any]:
        values: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for data_field in dataclasses.fields(self):
            name = data_field.name
            value = getattr(self, name)
            if name == "layout":
                values |= layout_fields(value)
            elif value != data_field.default:
                values[name] = as_json(value)
        # as it is read back: tuples become lists
        content: dict[str, Any] = json.loads(json.dumps(values))
        return content


def _unfitted(codec: CodecEntry) -> CodecEntry:
    return dataclasses.replace(codec, fit=None)


def json_names() -> list[str]:
    """Return the names in the JSON of a manifest, but for its version and its digest."""
    names = [data_field.name for data_field in dataclasses.fields(Manifest)]
    names.remove("layout")
    return [*names, *_LAYOUT]


def _with_layout(content: Content) -> dict[str, Any]:
    """Return what the JSON says, with the layout in the place of the fields that say it."""
    values = {**content, "layout": layout_of(content)}
    for name in _LAYOUT:
        values.pop(name, None)
    return values
