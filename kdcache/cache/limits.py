"""What manifests and commits may say. They may come from anywhere, and readers build arrays of the sizes that they tell.

The limits are far from what teachers and data sets ask for; docs/security.md has them in words.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

MOST_CLASSES = 1 << 20
MOST_ROWS = 1 << 32
MOST_UNIT_ROWS = 1 << 20
MOST_UNIT_BYTES = 1 << 28
"""Of the records of a unit, before compression."""
MOST_UNITS = 1 << 20
"""Of one seed."""
MOST_CHUNKS = 1 << 16
"""Of one unit."""
MOST_OBJECT = 1 << 30
"""Bytes of a unit's object."""
MOST_FIT = 1 << 29
"""Bytes of the arrays of a codec's fit; those of 21,841 classes have 45 MB."""
SEEDS = range(1 << 32)

_SIDES = range(1, (1 << 14) + 1)
_SIZE = frozenset({_SIDES, (_SIDES, _SIDES)})
_MOST_TEXT = 1000  # of the description of a field
_HASH = re.compile("[0-9a-f]{64}")
_NUMBER = frozenset({int, float})
_TEMPERATURE = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
_VERSIONS = {str: str}
_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_FIELD_TYPE = re.compile("[<|]?[fiu][1248]")

_MANIFEST: dict[Any, Any] = {
    "task": str,
    "classes": range(1, MOST_CLASSES + 1),
    "rows": range(1, MOST_ROWS + 1),
    "source": {"spec": str, "fingerprint": str, "classes?": range(1, MOST_CLASSES + 1)},
    "order_seed": range(1 << 64),
    "recipe": {"name": str, "fingerprint": str, "table": {"size": _SIZE | {re.compile("image")}}},
    "teacher": {"spec": str, "sha256": str, "size": _SIZE, "mean": [_NUMBER], "std": [_NUMBER], "precision": str},
    "codec": {"name": str, "configuration": {str: object}, "fit?": _HASH},
    "record_dtype": [list],
    "unit_rows": range(1, MOST_UNIT_ROWS + 1),
    "chunk_rows": range(1, MOST_UNIT_ROWS + 1),
    "chunk_bytes?": frozenset({range(1, MOST_UNIT_BYTES + 1), None}),
    "zstd_level?": range(1, 23),
    "store?": re.compile("zarr|webdataset"),
    "seeds_per_unit?": range(1, (1 << 16) + 1),
    "has_images?": bool,
    "sites?": frozenset({None, (range(1, 65), _SIDES, _SIDES)}),
    "skip_unreadable": bool,
    "samples?": {"count": range(1, MOST_ROWS), "sha256": _HASH},
    "made_by": {
        "versions?": _VERSIONS,
        "created?": str,
        "gradient_error?": {_TEMPERATURE: _NUMBER},
        "converted_from?": {"store": str, "manifest": str},
        "exported_from?": {"manifest": str},
    },
}
_COMMIT: dict[Any, Any] = {
    "seed": SEEDS,
    "unit": range(MOST_UNITS),
    "start": range(MOST_ROWS),
    "stop": range(1, MOST_ROWS + 1),
    "key": str,
    "num_bytes": range(1, MOST_OBJECT + 1),
    "sha256": _HASH,
    "write_id": str,
    "writer?": str,
    "absent?": [{"row": int, "reason": str, "seed?": int}],
    "probes?": [
        {"row": int, "crc32": range(1 << 32), "thumbnail": _BASE64, "seed?": int, "steps?": [(str, range(1 << 32))]},
    ],
    "statistics?": {str: _NUMBER},
    "versions?": _VERSIONS,
}
_EXTENT: dict[Any, Any] = {
    "seeds": [(SEEDS, range(1, SEEDS.stop + 1))],
    "units?": [(range(MOST_UNITS), range(1, MOST_UNITS + 1))],
}


def check_manifest(content: Mapping[str, Any]) -> None:
    """Raise a ValueError if a manifest says what none may say: a value of another type, or sizes beyond the limits."""
    _require(content, _MANIFEST, "")
    _check_origins(content["made_by"])
    width = record_bytes(content["record_dtype"])
    rows, unit_rows, chunk_rows = content["rows"], content["unit_rows"], content["chunk_rows"]
    chunk_bytes = content.get("chunk_bytes") or width
    if chunk_bytes > width or unit_rows % chunk_rows:
        raise ValueError(f"chunks of {chunk_rows} rows by {chunk_bytes} bytes do not make units of {unit_rows} by {width}")
    if (count := content.get("samples", {"count": 0})["count"]) >= rows:
        raise ValueError(f"it is a subset of {count} samples of {rows}; it must be of fewer")
    sizes = {
        "pixels in a record": (prod(content.get("sites") or [1]), width),
        "bytes of records in a unit": (unit_rows * width * content.get("seeds_per_unit", 1), MOST_UNIT_BYTES),
        "units of a seed": (-(-rows // unit_rows), MOST_UNITS),
        "chunks of a unit": (unit_rows // chunk_rows * -(-width // chunk_bytes), MOST_CHUNKS),
    }
    for name, (size, most) in sizes.items():
        if size > most:
            raise ValueError(f"there would be {size} {name}; at most {most} are read: choose another unit_rows")


def check_commit(content: Mapping[str, Any]) -> None:
    """Raise a ValueError if a commit has a value of another type or out of range."""
    _require(content, _COMMIT, "")


def check_extent(content: Mapping[str, Any]) -> None:
    """Raise a ValueError if a request has a value of another type, or an empty span."""
    _require(content, _EXTENT, "")
    for name, spans in content.items():
        for first, stop in spans:
            if first >= stop:
                raise ValueError(f"{name} has the span {first} to {stop}, which is empty")


def record_bytes(fields: list[Any]) -> int:
    """Return the bytes of a record with such a `record_dtype`.

    Raises:
        ValueError: anything but numbers and arrays of numbers, or a record that is larger than a unit may be.
    """
    names: set[str] = set()
    width = 0
    for field in fields:
        where = f"record_dtype {str(field)[:60]}"
        if len(field) not in (2, 3) or len(str(field)) > _MOST_TEXT:
            raise ValueError(f"{where} is not [name, type] or [name, type, shape]")
        name, kind, shape = [*field, [1]][:3]
        _require(name, str, where)
        _require(kind, _FIELD_TYPE, where)
        _require(shape, [range(1, MOST_UNIT_BYTES + 1)], where)
        width += int(kind[-1]) * prod(shape)
        names.add(name)
    if len(names) < len(fields) or not 0 < width <= MOST_UNIT_BYTES:
        raise ValueError(f"record_dtype has {len(fields)} fields of {width} bytes in all, which make no record")
    return width


def _check_origins(made_by: Any) -> None:
    """Raise a ValueError if what is said of the caches that this one was recoded from cannot be read."""
    while (origin := made_by.get("recoded_from")) is not None:
        _require(origin, {"codec": str, "made_by": _MANIFEST["made_by"]}, "made_by.recoded_from")
        made_by = origin["made_by"]


def _require(value: Any, form: Any, where: str) -> None:
    """Raise a ValueError if `value` is not of a form: a type, a range, a pattern, one of a set, or a list or object of them.

    A tuple is a list of so many. In an object `str` or a pattern stands for any such key; one that ends in ? need not be there.
    """
    if isinstance(form, dict) and isinstance(value, Mapping):
        _require_keys(value, form, where)
    elif isinstance(form, list) and isinstance(value, list):
        for item in value:
            _require(item, form[0], where)
    elif not _is_of(value, form):
        raise ValueError(f"{where or 'it'} is {str(value)[:60]!r}; {_wanted(form)}")


def _require_keys(value: Mapping[str, Any], form: dict[Any, Any], where: str) -> None:
    for key, inner in form.items():
        if not isinstance(key, str):
            for name, item in value.items():
                _require(name, key, f"a key of {where}")
                _require(item, inner, f"{where}.{name[:40]}")
        elif (name := key.removesuffix("?")) in value:
            _require(value[name], inner, f"{where}.{name}".lstrip("."))
        elif name == key:
            raise ValueError(f"it has no {f'{where}.{name}'.lstrip('.')}")


def _is_of(value: Any, form: Any) -> bool:
    if isinstance(form, tuple):
        return isinstance(value, list) and len(value) == len(form) and all(map(_is_of, value, form))
    if isinstance(form, frozenset):
        return any(_is_of(value, one) for one in form)
    if isinstance(form, range):
        return type(value) is int and value in form
    if isinstance(form, re.Pattern):
        return isinstance(value, str) and form.fullmatch(value) is not None
    if isinstance(form, type):
        return isinstance(value, form) and (form in (bool, object) or not isinstance(value, bool))
    return form is None and value is None


def _wanted(form: Any) -> str:
    if isinstance(form, range):
        return f"it must be an integer from {form.start} to {form.stop - 1}"
    if isinstance(form, re.Pattern):
        return f"it must match {form.pattern}"
    if isinstance(form, tuple):
        return f"it must be a list of {len(form)}"
    names = {dict: "an object", list: "a list", str: "text", int: "an integer", bool: "true or false"}
    return f"it must be {names.get(form if isinstance(form, type) else type(form), 'a number')}"
