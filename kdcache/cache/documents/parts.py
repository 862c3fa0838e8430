"""The tables inside manifests and commits, as dataclasses whose fields have the names of the JSON.

What a document says was checked before (`limits`), so nothing is checked here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar

from kdcache.shapes import Size

_Part = TypeVar("_Part", bound="Part")
JsonTable = Mapping[str, Any]
"""An object of the JSON."""
_Reader = Callable[[Any], Any]
_READER = "reader"
_OTHERS = "others"


def read_by(reader: _Reader) -> dict[str, Any]:
    """Return the metadata of a field whose value `reader` makes of what the JSON says."""
    return {_READER: reader}


def read_fields(cls: type, content: JsonTable) -> dict[str, Any]:
    """Return the values of some fields of a dataclass, by name, from what the JSON says."""
    values = {**content}
    for name, reader in _readers(cls).items():
        if values.get(name) is not None:
            values[name] = reader(values[name])
    return values


@cache
def _readers(cls: type) -> dict[str, _Reader]:
    """Return what makes the values of those fields that the JSON has in another form, by name."""
    readers: dict[str, _Reader] = {}
    for part_field in fields(cls):
        reader = part_field.metadata.get(_READER)
        if reader is not None:
            readers[part_field.name] = reader
    return readers


@cache
def _names(cls: type) -> frozenset[str]:
    """Return the names that a part's table may have in the fields of the part."""
    names = {part_field.name for part_field in fields(cls)}
    return frozenset(names - {_OTHERS})


def _form(cls: type) -> tuple[frozenset[str], dict[str, _Reader]]:
    return _names(cls), _readers(cls)


def as_json(value: Any) -> Any:
    """Return what the JSON says of the value of a field."""
    if isinstance(value, Part):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A table inside a document."""

    others: JsonTable | None = None
    """What a newer kdcache says besides, by name; None for nothing. It is kept unread and written
    again, since the digest of the document is over all of it."""

    @classmethod
    def all_from_json(cls: type[_Part], tables: Iterable[JsonTable]) -> list[_Part]:
        """Return the parts that tables say, of which a commit may have 100,000."""
        names, readers = _form(cls)
        parts: list[_Part] = []
        for table in tables:
            # a shorter way for most of them: the table has the values themselves
            if not readers and table.keys() <= names and None not in table.values():
                parts.append(cls(**table))
            else:
                parts.append(cls.from_json(table))
        return parts

    @classmethod
    def from_json(cls: type[_Part], table: JsonTable) -> _Part:
        """Return the part that a table says."""
        names, _ = _form(cls)
        own_values: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in table.items():
            # a null that is said stays so: a field that is None is not written
            if name in names and value is not None:
                own_values[name] = value
            else:
                others[name] = value
        return cls(**read_fields(cls, own_values), others=others or None)

    def to_json(self) -> dict[str, Any]:
        """Return the table, which has no fields that are None."""
        table: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name != _OTHERS and value is not None:
                table[name] = as_json(value)
        return {**table, **(self.others or {})}


def _as_size(size: int | list[int]) -> Size:
    """Return a size as it is said: [8, 8] is not 8 to a digest."""
    if isinstance(size, int):
        return size
    return size[0], size[1]


def _as_steps(lists: list[list[Any]]) -> list[tuple[str, int]]:
    """Return the steps of a probe as pairs, which the JSON holds as lists."""
    return [(name, crc32) for name, crc32 in lists]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceEntry(Part):
    """The source that the views are of. The first caches lack all but `spec` and `fingerprint`."""

    spec: str
    fingerprint: str
    classes: int | None = None
    """Of the source's own labels; the teacher may have others."""
    list: str | None = None
    """Digest of the arrays of the source's list."""
    sizes: str | None = None
    """Digest of the sizes of its files."""
    contents: str | None = None
    """Digest of the checksums of its samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeEntry(Part):
    """The whole recipe, as `Recipe.to_dict` tells it."""

    name: str
    fingerprint: str
    table: JsonTable
    """The keys of its TOML file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherEntry(Part):
    """The teacher, and what it wants of a view."""

    spec: str
    architecture: str | None = None
    """The spec but for weights and preprocessing."""
    sha256: str
    """Of its state."""
    size: Size = field(metadata=read_by(_as_size))
    """Pixels of the views that it saw."""
    stride: int | None = None
    """Pixels of a view for each pixel of a map; None of a teacher without maps."""
    mean: tuple[float, ...] = field(metadata=read_by(tuple))
    """Of each channel, where black is 0 and white is 1."""
    std: tuple[float, ...] = field(metadata=read_by(tuple))
    precision: str
    """That it ran in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecEntry(Part):
    """The codec of the records."""

    name: str
    configuration: JsonTable
    """Its options."""
    fit: str | None = None
    """Digest of the arrays of its fit; None of a codec that needs none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesEntry(Part):
    """Which samples a subset holds."""

    count: int
    sha256: str
    """Digest of the array of their numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsEntry(Part):
    """The stored views that a recipe names."""

    seeds: int
    """How many there are, from 0 on."""
    view_bytes: int
    """Bytes of all arrays for a view."""
    sha256: str
    """Digest of the arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedFrom(Part):
    """What somebody else's program wrote, that a cache was imported from."""

    format: str
    """As `kdcache import` calls it."""
    crops: str | None = None
    """Which of the crops of each sample became the seeds from 0 on, as `A:B`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedFrom(Part):
    """The cache of the other store that a cache was converted from."""

    store: str
    manifest: str
    """Digest of its manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFrom(Part):
    """The cache that a subset was exported from."""

    manifest: str
    """Digest of its manifest."""


def _recoded_from(table: JsonTable) -> "RecodedFrom":
    return RecodedFrom.from_json(table)


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeBy(Part):
    """How a cache was made; free to differ between the dumps that fill it."""

    versions: Mapping[str, str] | None = None
    """Of the libraries, by name."""
    config: str | None = None
    """The dump's configuration, in TOML."""
    created: str | None = None
    """Date and time in ISO 8601, UTC."""
    recoded_from: "RecodedFrom | None" = field(default=None, metadata=read_by(_recoded_from))
    gradient_error: Mapping[str, float] | None = None
    """How far the codec turned the gradient of DIST, as a share of its norm, by temperature; empty
    if not known."""
    converted_from: ConvertedFrom | None = field(
        default=None, metadata=read_by(ConvertedFrom.from_json)
    )
    exported_from: ExportedFrom | None = field(
        default=None, metadata=read_by(ExportedFrom.from_json)
    )
    imported_from: ImportedFrom | None = field(
        default=None, metadata=read_by(ImportedFrom.from_json)
    )

    @property
    def errors(self) -> dict[float, float]:
        """`gradient_error` by temperature as a number."""
        errors = self.gradient_error or {}
        return {float(tau): float(error) for tau, error in errors.items()}

    def origins(self) -> Iterator["RecodedFrom"]:
        """Yield the caches that this one was recoded from, the last one first."""
        origin = self.recoded_from
        while origin is not None:
            yield origin
            origin = origin.made_by.recoded_from


@dataclass(frozen=True, kw_only=True, slots=True)
class RecodedFrom(Part):
    """The cache of another codec that a cache was recoded from."""

    codec: str
    """Its codec's spec."""
    manifest: str | None = None
    """Digest of its manifest."""
    made_by: MadeBy = field(metadata=read_by(MadeBy.from_json))


@dataclass(frozen=True, kw_only=True, slots=True)
class Absence(Part):
    """A sample that could not be read: its record holds zeros and is never given out."""

    row: int
    reason: str
    seed: int | None = None
    """None where the unit has one seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe(Part):
    """A view as it was rendered at the dump."""

    row: int
    crc32: int
    """Of its pixels."""
    thumbnail: str
    """Area means of 8x8 parts of it, uint8 `[channels, 8, 8]`, in base64."""
    steps: list[tuple[str, int]] | None = field(default=None, metadata=read_by(_as_steps))
    """Name of each step that led to it, and the CRC-32 of what came out; None where they were not
    traced."""
    seed: int | None = None
    """None where the unit has one seed."""
