"""What a codec is: logits of a view <-> one fixed-width record."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from kdcache.codecs.record_bytes import (
    Packed,
    as_records,
    packed_fields,
    refuse_range,
    to_fields,
)
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError, quoted
from kdcache.shapes import Logits, PerRow, Records, ViewLogits
from kdcache.soft_targets import SoftTargets

LARGEST = 2.0**40
"""Logits, and all numbers in records, are below: float32 then holds the sum of the squares of a
million of them."""
_MEASURED = 4096
"""Views in the sample of a codec that needs no fit; a quarter of them is measured on."""


@runtime_checkable
class Codec(Protocol):
    """Logits of one view <-> one record of `record_dtype`; lossy on purpose, within `stated_error`.

    A codec is a frozen dataclass: its fields but `classes` are the options of its spec and its
    configuration in a manifest, those made by `not_an_option` apart.
    """

    @property
    def name(self) -> str:
        """The name in its spec."""

    @property
    def zstd_level(self) -> int:
        """The store's compression level at which smaller records are no longer worth the time."""

    @property
    def classes(self) -> int:
        """How many classes a row of logits has."""

    @property
    def keeps_all(self) -> bool:
        """Whether every class's logit is in the record; a loss may need the label's."""

    @property
    def keeps_mean(self) -> bool:
        """Whether the mean of a row of logits is in the record; no softmax sees it."""

    @property
    def is_exact(self) -> bool:
        """Whether decoded logits are the teacher's but for the rounding of a float."""

    @property
    def views(self) -> int:
        """How many views a sample has that the codec is fitted to and measured on."""

    @property
    def chunk_bytes(self) -> int | None:
        """How many bytes of each record the store compresses together, at best; None for whole
        records."""

    @property
    def least_chunk_rows(self) -> int:
        """How many records a chunk of the store has at least."""

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """The structured dtype of a record, little-endian and packed.

        A field of class indices is called `classes`, one that may not be negative `tail_var`:
        `check_records` goes by these names, so that a changed byte is refused and not decoded.
        """

    def fit(self, logits: ViewLogits) -> "Codec":
        """Return this codec fitted to a calibration sample; itself, if it has nothing to fit."""

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the fit, which a cache keeps beside its records; none before the
        fit, or where there is nothing to fit."""

    def with_fit_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Codec":
        """Return this codec with the fit whose arrays a cache keeps.

        Raises:
            CodecError: arrays that are no fit of this codec.
        """

    def pack(self, logits: ViewLogits) -> Packed:
        """Return one record per view on the device of the logits, without a wait for it.

        Raises:
            CodecError: logits of another class count.
        """

    def encode(self, logits: ViewLogits) -> Records:
        """Return one record per view, the same bytes as `pack`.

        Raises:
            CodecError: logits of another class count, not finite, or out of the record's range.
        """

    def decode(self, records: Records, device: "torch.device | str" = "cpu") -> SoftTargets:
        """Return the soft targets, decoded on `device`."""

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the logits nearest to `exact` that the records allow, `[rows, classes]`: those
        decoded, but where a record says only how large a logit may be."""

    def clipped(self, logits: ViewLogits) -> Tensor | None:
        """Return which rows lose more to clipping than to rounding, bool `[rows]`; None of a codec
        that does not clip."""

    def stated_error(self, logits: ViewLogits) -> PerRow:
        """Return a bound on |decoded - exact| of the logits that a record keeps, one per view."""


@runtime_checkable
class RowCodec(Codec, Protocol):
    """A codec whose records are of a single row of logits each, and may be those of a map's
    pixels."""

    def fit(self, logits: Logits) -> "RowCodec":
        """Return this codec fitted to a calibration sample; itself, if it has nothing to fit."""

    def with_fit_arrays(self, arrays: Mapping[str, np.ndarray]) -> "RowCodec":
        """Return this codec with the fit whose arrays a cache keeps."""

    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the fields of the rows' records on the device of the logits, without a wait for
        it: integers, or floats that are rounded to what a record has."""

    def from_fields(self, fields: Mapping[str, Tensor]) -> SoftTargets:
        """Return the rows whose records have these fields, see `to_fields`, on their device."""


Own = TypeVar("Own", bound="CodecDefaults")


class CodecDefaults(ABC):
    """What is true of a codec of rows that has nothing to fit, unless it says otherwise."""

    name: ClassVar[str]
    keeps_mean: ClassVar[bool] = True
    least_chunk_rows: ClassVar[int] = 16
    most_classes: ClassVar[int] = 2**20
    """More than any teacher has."""
    field_words: ClassVar[Mapping[str, str]] = {}
    """What messages call fields, but for those that their names describe."""
    classes: int

    @property
    def is_exact(self) -> bool:
        """False: something is lost beside the rounding of a float."""
        return False

    @property
    def views(self) -> int:
        """As many as tell a difference between codecs."""
        return _MEASURED

    @property
    def chunk_bytes(self) -> int | None:
        """None: a chunk has whole records."""
        return None

    @property
    @abstractmethod
    def record_dtype(self) -> "np.dtype[Any]":
        """The dtype of a record."""

    def pack(self, logits: Logits) -> Packed:
        """Return one record per row on the device of the logits, without a wait for it.

        Raises:
            CodecError: logits of another class count.
        """
        logits = as_rows(logits, self.classes)
        packed = packed_fields(self.fields_of(logits), self.record_dtype)
        return Packed(packed.raw, packed.is_held & is_small(logits))

    def encode(self, logits: Logits) -> Records:
        """Return one record per row.

        Raises:
            CodecError: logits of another class count, not finite, huge, or past the range of the
                record's fields.
        """
        return self.records_of(self.fields_of(checked(logits, self.classes)))

    def records_of(self, fields: Mapping[str, Tensor]) -> Records:
        """Return the records that have these fields.

        Raises:
            CodecError: a number past the range of its field.
        """
        packed = packed_fields(fields, self.record_dtype)
        if not bool(packed.is_held.all()):
            refuse_range(fields, self.record_dtype, self.field_words)
        return as_records(packed.raw, self.record_dtype)

    @abstractmethod
    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the fields of the rows' records."""

    def decode(self, records: Records, device: "torch.device | str" = "cpu") -> SoftTargets:
        """Return the soft targets, decoded on `device`."""
        return self.from_fields(to_fields(records, device))

    @abstractmethod
    def from_fields(self, fields: Mapping[str, Tensor]) -> SoftTargets:
        """Return the rows whose records have these fields."""

    def fit(self: Own, logits: Logits) -> Own:
        """Return this codec; it has nothing to fit."""
        return self

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return no arrays; there is nothing to fit."""
        return {}

    def with_fit_arrays(self: Own, arrays: Mapping[str, np.ndarray]) -> Own:
        """Refuse the arrays of a fit.

        Raises:
            CodecError: always.
        """
        raise CodecError(f"codec {self.name} has no fit, but its manifest names one")

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the decoded logits: the records hold all of them."""
        return self.decode(records).logits()

    def clipped(self, logits: Logits) -> Tensor | None:
        """Return None; nothing is clipped."""
        return None


def as_rows(logits: Logits, classes: int) -> Logits:
    """Return `logits` detached in float32.

    Raises:
        CodecError: another class count.
    """
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise CodecError(
            f"logits of shape {tuple(logits.shape)}; this codec holds rows of {classes} classes"
        )
    return logits.detach().float()


def is_small(logits: Logits) -> Tensor:
    """Return which rows are finite and below `LARGEST`, bool `[rows]`."""
    return (logits.abs() < LARGEST).all(dim=1)  # which NaN is not either


def logits_fault(logits: Tensor) -> str:
    """Return what is wrong with logits that `is_small` is not true of."""
    if bool(logits.isfinite().all()):
        return f"logits of {LARGEST:.3g} and more"
    return "NaN or infinite logits"


def checked(logits: Logits, classes: int) -> Logits:
    """Return `logits` detached in float32, after a wait for their device.

    Raises:
        CodecError: another class count, or a value that is not finite or not below `LARGEST` (the
            first such row is named).
    """
    logits = as_rows(logits, classes)
    is_row_small = is_small(logits)
    if not bool(is_row_small.all()):
        row = int((~is_row_small).nonzero()[0])
        raise CodecError(
            f"row {row} of the batch holds {logits_fault(logits[row])}; check the weights of the"
            " teacher, and its mean and std"
        )
    return logits


def require_arrays(
    codec: str,
    arrays: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check arrays of a codec's fit.

    Args:
        codec: its name.
        arrays: of the fit.
        kinds: the types of all that a fit has, by name.
        shapes: of those that are looked at.

    Raises:
        CodecError: an array that is absent, unknown, of another type or shape, or not finite.
    """
    unknown_names = sorted(arrays.keys() - kinds.keys())
    if unknown_names:
        raise CodecError(
            f"{codec}: the fit holds array {quoted(unknown_names[0])}, which this kdcache does not"
            " know: upgrade it"
        )
    for name, shape in shapes.items():
        array = arrays.get(name)
        kind = kinds[name]
        if array is None:
            fault = "absent"
        elif array.dtype != kind or array.shape != shape or not np.isfinite(array).all():
            fault = f"{array.dtype.str} {array.shape}"
        else:
            continue
        raise CodecError(
            f"{codec}: array {name} of the fit is {fault}, where finite {kind} {shape} is needed"
        )
