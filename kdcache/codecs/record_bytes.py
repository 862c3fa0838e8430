"""Records as bytes, and their fields as tensors."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.shapes import Records


class Packed(NamedTuple):
    """Records of views as bytes, on the device of the logits."""

    raw: Tensor
    """uint8 `[views, bytes of a record]`."""
    is_held: Tensor
    """Whether a record can hold the logits of a view, bool `[views]`; the bytes of others mean
    nothing."""


def packed_fields(fields: Mapping[str, Tensor], dtype: "np.dtype[Any]") -> Packed:
    """Return records of `dtype` from their fields, and which have no number past float16's range.

    Args:
        fields: by name, integers or floats `[records, *shape of the field]`.
        dtype: of a record.
    """
    parts = []
    for name, _, field_dtype in _places(dtype):
        values = fields[name]
        shape = (len(values), prod(field_dtype.shape))
        numbers = values.to(_type_of(field_dtype)).contiguous()
        # not reshape(): of a single row or column it keeps strides that forbid a view as bytes
        parts.append(numbers.as_strided(shape, (shape[1], 1)))
    is_held = torch.ones(len(parts[0]), dtype=torch.bool, device=parts[0].device)
    for numbers in parts:
        if numbers.dtype == torch.float16:
            is_held = is_held & numbers.isfinite().all(1)
    return Packed(torch.cat([numbers.view(torch.uint8) for numbers in parts], 1), is_held)


def refuse_range(
    fields: Mapping[str, Tensor], dtype: "np.dtype[Any]", words: Mapping[str, str]
) -> NoReturn:
    """Raise the CodecError of fields of which one is past float16's range."""
    limit = torch.finfo(torch.float16).max
    for name, _, field_dtype in _places(dtype):
        values = fields[name]
        if field_dtype.base == np.float16 and not bool(values.half().isfinite().all()):
            largest = float(values.abs().max())
            raise CodecError(
                f"{words.get(name, name)} of {largest:.6g} do not fit float16 ({limit:,.6g}); use"
                " full:dtype=float32"
            )
    raise AssertionError("each of them fits")


def as_records(raw: Tensor, dtype: "np.dtype[Any]") -> Records:
    """Return the records that have these bytes, uint8 `[records, bytes of one]`, on the host."""
    records: Records = raw.cpu().contiguous().numpy().view(dtype)[:, 0]
    return records


def to_fields(records: Records, device: "torch.device | str") -> dict[str, Tensor]:
    """Return the fields of `records` as tensors on `device`, after a single copy of the record
    bytes.

    Unsigned fields come as int64, since torch has little arithmetic on unsigned types; uint8 stays
    as it is.
    """
    raw = to_bytes(records, device)
    fields = {}
    for name, place, dtype in _places(records.dtype):
        numbers = _apart(raw[:, place], dtype)
        fields[name] = _unsigned(numbers, dtype)
    return fields


def plane_fields(planes: Tensor, dtype: "np.dtype[Any]") -> dict[str, Tensor]:
    """Return the fields of records, as `to_fields` does, whose bytes lie plane by plane.

    Args:
        planes: uint8 `[views, bytes of a record, pixels]`.
        dtype: of a record.
    """
    fields = {}
    for name, place, field_dtype in _places(dtype):
        numbers = _joined(planes[:, place], field_dtype)
        fields[name] = _unsigned(numbers, field_dtype)
    return fields


def to_bytes(records: Records, device: "torch.device | str") -> Tensor:
    """Return the bytes of `records` on `device`, uint8 `[records, bytes of one]`."""
    numbers = np.ascontiguousarray(records).view(np.uint8)
    raw = torch.from_numpy(numbers.reshape(len(records), records.dtype.itemsize))
    if torch.device(device).type == "cuda":
        return raw.pin_memory().to(device, non_blocking=True)
    return raw.to(device)


_TYPES = {
    "f2": "float16",
    "f4": "float32",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "u1": "uint8",
    "u2": "int16",
    "u4": "int32",
}
"""The names that torch has for them, but for unsigned ones the signed type of the same size."""


def _type_of(dtype: "np.dtype[Any]") -> "torch.dtype":
    """Return the type of the numbers of a field, as torch reads their bytes."""
    kind: torch.dtype = getattr(torch, _TYPES[dtype.base.str[1:]])
    return kind


def _places(dtype: "np.dtype[Any]") -> list[tuple[str, slice, "np.dtype[Any]"]]:
    """Return the name of each field, where its bytes lie in a record, and its dtype."""
    assert dtype.fields is not None
    places = []
    for name, (field_dtype, start, *_) in dtype.fields.items():
        stop = start + field_dtype.itemsize
        places.append((name, slice(start, stop), field_dtype))
    return places


def _apart(raw: Tensor, dtype: "np.dtype[Any]") -> Tensor:
    """Return the numbers of a field, `[records, numbers of the field]`."""
    # a clone, not contiguous(): a single row counts as contiguous wherever its field starts, and
    # may be misaligned
    return raw.clone(memory_format=torch.contiguous_format).view(_type_of(dtype))


def _joined(planes: Tensor, dtype: "np.dtype[Any]") -> Tensor:
    """Return the numbers of `[views, bytes of a field, pixels]`, `[views * pixels, numbers of a
    field]`."""
    width = dtype.base.itemsize
    views, size, pixels = planes.shape
    joined = planes.new_empty(views, size // width, pixels, width)
    for byte in range(width):  # a plane at a time: a transposing copy takes three times as long
        joined[..., byte] = planes[:, byte::width]
    numbers = joined.view(_type_of(dtype))[..., 0]
    rows = numbers.transpose(1, 2)
    return rows.reshape(views * pixels, size // width)


def _unsigned(values: Tensor, dtype: "np.dtype[Any]") -> Tensor:
    """Return a field's numbers `[records, numbers of the field]` in its shape, those that have no
    sign as such."""
    base = dtype.base
    if base.kind == "u" and base.itemsize > 1:
        values = values.to(torch.int64) & (256**base.itemsize - 1)
    return values.reshape(len(values), *dtype.shape)
