"""Whether records can be decoded at all: they may come from anywhere.

A class that there is not ends a process on a GPU. What is no number, or a huge one, makes NaN of a
loss, and of the weights after it.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from kdcache.codecs.protocol import LARGEST
from kdcache.errors import CodecError
from kdcache.positions import MOST_COORDINATE, Layout
from kdcache.shapes import Records

_MOST_PAIRED = 64
"""Classes of a row up to which each is compared with each, which is faster than sorting them."""
_PAIRED_ROWS = 1 << 16
_SORTED_ROWS = 1 << 12
"""Rows whose classes are compared, or sorted, together: the second times 2^20 classes are as
many as 32 bits tell apart."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def check_records(
    stored: Mapping[str, Any],
    records: Records,
    row: "np.dtype[Any] | None",
    classes: int,
    layout: Layout | None = None,
) -> None:
    """Check that a loss can use the records: numbers that are finite and not huge, variances, and
    each class once; boxes near their view, and no more of them than there may be.

    Args:
        stored: the codec as a manifest keeps it.
        records: of any shape, or of several positions, whose rows lie in them byte by byte.
        row: of a position, in records of several; None, or without fields, where any bytes will do,
            as those of `lowrank`.
        classes: their number.
        layout: what the positions are; of maps of one size the records tell.

    Raises:
        CodecError: NaN, infinity, a huge number, a negative variance, a class beyond the last, or a
            class twice.
    """
    is_bfloat16 = stored["configuration"].get("dtype") == "bfloat16"
    if layout is not None and layout.has_boxes:
        _check_boxes(records, layout.num_positions)
    if layout is not None and row is not None and not layout.maps:
        _check_segments(records, row, classes, layout, is_bfloat16=is_bfloat16)
    elif "maps" not in (records.dtype.names or ()):
        _check_rows(records, classes, is_bfloat16=is_bfloat16)
    elif row is not None and row.itemsize:
        maps_of_all = records["maps"].reshape(-1, *records.dtype["maps"].shape)
        for number, maps in enumerate(maps_of_all):
            where = f"a pixel of record {number % records.shape[-1]}"
            _check_maps(maps, row, classes, where, is_bfloat16=is_bfloat16)


def _check_segments(
    records: Records,
    row: "np.dtype[Any]",
    classes: int,
    layout: Layout,
    *,
    is_bfloat16: bool,
) -> None:
    """Check the rows of every segment of a layout, a record at a time."""
    if not row.itemsize:
        return
    for segment in layout.segments:
        of_all = records[segment.name].reshape(-1, row.itemsize, segment.num_positions)
        for number, planes in enumerate(of_all):
            where = f"{segment.name} of record {number % records.shape[-1]}"
            _check_maps(planes[None], row, classes, where, is_bfloat16=is_bfloat16)


def _check_boxes(records: Records, most: int) -> None:
    """Check where proposals lie, and how many a view has."""
    is_near = np.abs(records["boxes"]) <= MOST_COORDINATE  # which NaN is not either
    fault = f"NaN, infinity or a side past {MOST_COORDINATE:.0f} pixels"
    _refuse_rows(records, ~is_near.all((-1, -2)), fault, "boxes")
    _refuse_rows(records, records["count"] > most, f"more than {most} proposals", "count")


def _check_rows(records: Records, classes: int, *, is_bfloat16: bool) -> None:
    """Check the fields of records of a single row."""
    for name in records.dtype.names or ():
        values = records[name]
        kind = values.dtype.str[1:]
        if is_bfloat16:
            kind = "bfloat16"
        if name == "classes":
            _refuse_rows(records, values >= classes, f"a class beyond {classes - 1}", name)
            _refuse_rows(records, _repeated_rows(records, classes), "a class twice", name)
        elif kind in _BOUNDS and not _are_small(values, kind):
            bits = values.view(f"u{values.dtype.itemsize}") & _unsigned(values.dtype.itemsize)
            _refuse_rows(records, bits >= _BOUNDS[kind], _REFUSED[kind], name)
        if name == "tail_var":
            _refuse_rows(records, values < 0, "a negative variance", name)


def _refuse_rows(records: Records, is_wrong: Mask, what: str, name: str) -> None:
    """Raise a CodecError that names the first record with a wrong field, if there is any."""
    if is_wrong.any():
        number = np.argwhere(is_wrong)[0][records.ndim - 1]
        raise CodecError(f"record {number} of it holds {what} in {name}")


def _are_small(values: np.ndarray, kind: str) -> bool:
    """Return whether all floats of a field are below their bound."""
    if not values.size:
        return True
    if kind in ("f4", "f8"):
        # NaN comes out of both, and is neither
        return bool(values.min() > -LARGEST and values.max() < LARGEST)
    # numpy compares float16 one by one; without their signs bits rise as numbers do
    bits = values.view("u2") & _unsigned(2)
    return bool(bits.max() < _BOUNDS[kind])


def _repeated_rows(records: Records, classes: int) -> Mask:
    """Return which records hold a class twice; those of absent rows, which are all zeros, do not
    count."""
    flat = records.reshape(-1)
    is_repeated = np.zeros(len(flat), bool)
    for start in range(0, len(flat), _PAIRED_ROWS):
        part = flat[start : start + _PAIRED_ROWS]
        has_twice = _has_twice(np.ascontiguousarray(part["classes"].T), classes)
        if has_twice.any():
            raw = np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1)
            has_twice &= raw.any(1)
        is_repeated[start : start + _PAIRED_ROWS] = has_twice
    return is_repeated.reshape(records.shape)


def _has_twice(numbers: np.ndarray, classes: int) -> Mask:
    """Return which rows hold a class twice, bool `[rows]`, from their classes, `[classes,
    rows]`."""
    count, num_rows = numbers.shape
    has_twice = np.zeros(num_rows, bool)
    if count > _MOST_PAIRED:
        for start in range(0, num_rows, _SORTED_ROWS):
            part = numbers[:, start : start + _SORTED_ROWS]
            has_twice[start : start + _SORTED_ROWS] = _has_neighbours(part, classes)
        return has_twice
    for shift in range(1, count):
        is_equal = numbers[shift:] == numbers[:-shift]
        if is_equal.any():
            has_twice |= is_equal.any(0)
    return has_twice


def _has_neighbours(numbers: np.ndarray, classes: int) -> Mask:
    """Return what `_has_twice` does, of few rows, by sorting all of their classes together."""
    num_rows = numbers.shape[1]
    firsts = np.uint32(classes) * np.arange(num_rows, dtype=np.uint32)
    places = np.sort(numbers + firsts, axis=None)
    twice = places[1:][places[1:] == places[:-1]]
    has_twice = np.zeros(num_rows, bool)
    has_twice[twice // classes] = True
    return has_twice


def _check_maps(
    maps: np.ndarray, row: "np.dtype[Any]", classes: int, where: str, *, is_bfloat16: bool
) -> None:
    """Check the rows of a view's pixels, uint8 `[heads, bytes of a row, height, width]`, or of a
    segment's positions, `[1, bytes of a row, positions]`, without putting them together."""
    for name in row.names or ():
        kind = row[name].base.str[1:]
        if is_bfloat16:
            kind = "bfloat16"
        if name == "classes":
            fault = _fault_of_classes(maps, row, classes)
        elif kind in _BOUNDS and _is_any_large(maps, row, name, kind):
            fault = _REFUSED[kind]
        elif name == "tail_var" and _is_any_negative(maps, row, name):
            fault = "a negative variance"
        else:
            fault = None
        if fault:
            raise CodecError(f"{where} of it holds {fault} in {name}")


def _fault_of_classes(maps: np.ndarray, row: "np.dtype[Any]", classes: int) -> str | None:
    """Return what is wrong with the classes of some pixel."""
    numbers = _values(maps, row, "classes", row["classes"].base.itemsize)
    if numbers.max() >= classes:
        return f"a class beyond {classes - 1}"
    if _is_class_repeated(maps, numbers, classes):
        return "a class twice"
    return None


def _is_any_large(maps: np.ndarray, row: "np.dtype[Any]", name: str, kind: str) -> bool:
    """Return whether some float of a field is not below its bound."""
    size = row[name].base.itemsize
    bound = _BOUNDS[kind]
    highest_byte = (_values(maps, row, name, 1) & 0x7F).max()
    if highest_byte < bound >> 8 * (size - 1):
        return False
    # hardly ever: of numbers this large there are none, and one plane of bytes tells
    largest = (_values(maps, row, name, size) & _unsigned(size)).max()
    return bool(largest >= bound)


def _is_any_negative(maps: np.ndarray, row: "np.dtype[Any]", name: str) -> bool:
    """Return whether some float of a field is negative; -0 is not."""
    if _values(maps, row, name, 1).max() < 0x80:
        return False
    size = row[name].base.itemsize
    return bool(_values(maps, row, name, size).max() > _unsigned(size) + 1)


def _is_class_repeated(maps: np.ndarray, numbers: np.ndarray, classes: int) -> bool:
    """Return whether some pixel holds a class twice; those of absent views, all zeros, do not
    count."""
    flat = numbers.reshape(*numbers.shape[:2], -1)
    is_repeated = np.zeros((len(flat), flat.shape[2]), bool)
    for head, numbers_of_head in enumerate(flat):
        for start in range(0, numbers_of_head.shape[1], _PAIRED_ROWS):
            part = numbers_of_head[:, start : start + _PAIRED_ROWS]
            is_repeated[head, start : start + _PAIRED_ROWS] = _has_twice(part, classes)
    if not is_repeated.any():
        return False
    is_present = maps.any(1).reshape(is_repeated.shape)
    return bool((is_repeated & is_present).any())


def _values(maps: np.ndarray, row: "np.dtype[Any]", name: str, upper: int) -> np.ndarray:
    """Return a field's numbers, or so many of their upper bytes, as unsigned integers `[heads,
    numbers, height, width]`, or `[1, numbers, positions]`."""
    start = row.fields[name][1]  # type: ignore[index]
    size = row[name].base.itemsize
    planes = maps[:, start : start + size * prod(row[name].shape)]
    if upper == 1:
        return planes[:, size - 1 :: size]
    number_type = _unsigned_type(upper)
    values = np.zeros((), number_type)
    for place in range(upper):
        plane = planes[:, size - upper + place :: size].astype(number_type)
        values = values | (plane << number_type(8 * place))
    return values


def _unsigned_type(size: int) -> Any:
    """Return the smallest unsigned type, from two bytes, that holds so many bytes."""
    if size <= 2:
        return np.uint16
    if size <= 4:
        return np.uint32
    return np.uint64


def _unsigned(size: int) -> Any:
    """Return the mask of all bits of a number of so many bytes but its sign."""
    kind: Any = np.dtype(f"u{size}").type
    return kind((1 << 8 * size - 1) - 1)


_BOUNDS = {
    "f2": 0x7C00,  # infinity: all numbers of float16 are small
    # to the bound itself smaller logits are rounded
    "bfloat16": ((int(np.float32(LARGEST).view(np.uint32)) >> 16) + 1),
    "f4": int(np.float32(LARGEST).view(np.uint32)),
    "f8": int(np.float64(LARGEST).view(np.uint64)),
}
"""By kind of float the bits, without the sign, of the least number that is refused: larger
numbers, infinity and NaN follow."""
_HUGE = f"NaN, infinity or a number past {LARGEST:.3g}"
_REFUSED = {"f2": "NaN or infinity", "bfloat16": _HUGE, "f4": _HUGE, "f8": _HUGE}
