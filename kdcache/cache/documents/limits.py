"""What manifests and commits may say. They may come from anywhere, and readers build arrays of the
sizes that they tell.

The limits are far from what teachers and data sets ask for; docs/explanation/security.md has them
in words.
"""

import re
from math import prod
from typing import Any

from kdcache.cache.documents.document import Content
from kdcache.cache.documents.positions import check_positions
from kdcache.cache.documents.schema import Items, Number, Table, Text, require
from kdcache.config.spec import MOST_SPEC
from kdcache.errors import quoted
from kdcache.positions import Layout
from kdcache.shapes import MOST_CLASSES, MOST_PIXELS, MOST_SIDE, as_size, sides
from kdcache.targets import KINDS, gives_maps
from kdcache.views.stored_arrays import MOST_VIEW_BYTES

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
MOST_LIST = 1 << 30
"""Bytes of the list of a source; that of ImageNet-21k has 800 MB."""
MOST_VIEWS = 1 << 30
"""Bytes of stored views; 49 seeds of ImageNet, boxes and flips alone, have 1.07 GB."""
MOST_RATIO = 100
"""Bytes of arrays beside the units for each byte that they take compressed, beyond the first
`ANY_RATIO`; names of files that count on without a gap come to 40."""
ANY_RATIO = 1 << 26
SEEDS = range(1 << 32)
MOST_SEEDS = 1 << 18
"""Of a cache of which some unit is committed."""
MOST_SEEDS_PER_UNIT = 1 << 16
MOST_SHARED_UNITS = 1 << 26
"""Units of all the seeds that share them, each counted under each of its seeds."""
MOST_MANIFEST = 1 << 20
"""Bytes of the document that holds the manifest, which has a few kB."""
MOST_MANIFEST_VALUES = 20_000
MOST_COMMIT = 1 << 24
"""Bytes of a commit, which has a few kB; where samples could not be read, some 100 for each."""
MOST_COMMIT_VALUES = 600_000
MOST_SPANS = 100_000
"""Of consecutive seeds and units, in all the requests for what a cache is to hold."""
TASKS = tuple(KINDS)

_SIDES = range(1, MOST_SIDE + 1)
_SIZE = frozenset({_SIDES, (_SIDES, _SIDES)})
_CLASSES = range(1, MOST_CLASSES + 1)
_HASH = re.compile("[0-9a-f]{64}")
_NAME = Text(300)
_SPEC = Text(MOST_SPEC)
_NUMBER = Number(-1e39, 1e39)  # what float32 holds
_COUNT = range(-(1 << 53), 1 << 53)
_OPTION = frozenset({_COUNT, _NUMBER, bool, None, _NAME})
_TEMPERATURE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?(e[+-]?[0-9]{1,2})?")
_ERROR = Number(0, 1e9)
_VERSIONS = Table(_NAME, 100)
_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4}){0,200}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_FIELD_TYPE = re.compile("[<|]?[iu]1|<?[iu][248]|<?f[248]")
_RECIPE = {
    "size": _SIZE | {re.compile("image")},
    "mode?": re.compile("RGB|L"),
    "eval?": _SPEC,
    "transforms?": list,
    "mixing?": Table(_OPTION, 20),
}
_MADE_BY: dict[str, Any] = {
    "versions?": _VERSIONS,
    "config?": Text(1 << 16),
    "created?": _NAME,
    "gradient_error?": Table(_ERROR, 20, key=_TEMPERATURE),
    "converted_from?": {"store": _NAME, "manifest": _NAME},
    "exported_from?": {"manifest": _NAME},
    "imported_from?": {"format": _NAME, "crops?": Text(10_000)},
}
_MANIFEST: dict[str, Any] = {
    "task": re.compile("|".join(TASKS)),
    "classes": _CLASSES,
    "rows": range(1, MOST_ROWS + 1),
    "source": {
        "spec": _SPEC,
        "fingerprint": _NAME,
        "classes?": _CLASSES,
        "list?": _HASH,
        "sizes?": _HASH,
        "contents?": _HASH,
    },
    "order_seed": range(1 << 64),
    "recipe": {"name": _NAME, "fingerprint": _NAME, "table": _RECIPE},
    "teacher": {
        "spec": _SPEC,
        "architecture?": _SPEC,
        "sha256": _NAME,
        "size": _SIZE,
        "stride?": _SIDES,
        "mean": Items(_NUMBER, 16),
        "std": Items(_NUMBER, 16),
        "precision": _NAME,
    },
    "codec": {"name": _NAME, "configuration": Table(_OPTION, 20), "fit?": _HASH},
    "record_dtype": Items(list, 20),
    "unit_rows": range(1, MOST_UNIT_ROWS + 1),
    "chunk_rows": range(1, MOST_UNIT_ROWS + 1),
    "chunk_bytes?": frozenset({range(1, MOST_UNIT_BYTES + 1), None}),
    "zstd_level?": range(1, 23),
    "store?": re.compile("zarr|webdataset"),
    "seeds_per_unit?": range(1, MOST_SEEDS_PER_UNIT + 1),
    "has_images?": bool,
    "sites?": frozenset({None, (range(1, 65), _SIDES, _SIDES)}),
    "positions?": frozenset({None, dict}),
    "skip_unreadable": bool,
    "samples?": {"count": range(1, MOST_ROWS), "sha256": _HASH},
    "views?": {
        "seeds": range(1, MOST_SEEDS + 1),
        "view_bytes": range(1, MOST_VIEW_BYTES + 1),
        "sha256": _HASH,
    },
    "made_by": _MADE_BY,
}
_ROW = range(MOST_ROWS)
_PROBE = {
    "row": _ROW,
    "crc32": range(1 << 32),
    "thumbnail": _BASE64,
    "seed?": SEEDS,
    "steps?": Items((_NAME, range(1 << 32)), 200),
}
_COMMIT: dict[str, Any] = {
    "seed": SEEDS,
    "unit": range(MOST_UNITS),
    "start": range(MOST_ROWS),
    "stop": range(1, MOST_ROWS + 1),
    "key": _NAME,
    "num_bytes": range(1, MOST_OBJECT + 1),
    "sha256": _HASH,
    "write_id": _NAME,
    "writer?": _NAME,
    "absent?": Items({"row": _ROW, "reason": Text(10_000), "seed?": SEEDS}, MOST_COMMIT_VALUES),
    "probes?": Items(_PROBE, MOST_COMMIT_VALUES),
    "statistics?": Table(_NUMBER, 100),
    "versions?": _VERSIONS,
}
_EXTENT: dict[str, Any] = {
    "seeds": Items((SEEDS, range(1, SEEDS.stop + 1)), MOST_SPANS),
    "units?": Items((range(MOST_UNITS), range(1, MOST_UNITS + 1)), MOST_SPANS),
}


def check_manifest(content: Content) -> None:
    """Check that a manifest says what one may say.

    Raises:
        ValueError: a value of another type, sizes beyond the limits, or fields that contradict each
            other.
    """
    require(content, _MANIFEST, "")
    _check_origins(content["made_by"])
    _check_store(content)
    layout = check_positions(content)
    _check_sites(content)
    _check_layout(content["task"], layout)
    _check_sizes(content, layout)
    _check_view_size("recipe.table", content["recipe"]["table"]["size"])
    _check_view_size("teacher", content["teacher"]["size"])


def require_known_task(task: Any) -> None:
    """Raise a ValueError if a task is none that this version knows; what is no text at all
    `check_manifest` refuses."""
    if isinstance(task, str) and task not in TASKS:
        tasks = " and ".join(TASKS)
        raise ValueError(
            f"its task is {quoted(task)}, and this kdcache knows {tasks}; a newer one may know it:"
            " upgrade kdcache"
        )


def check_commit(content: Content) -> None:
    """Raise a ValueError if a commit has a value of another type or out of range."""
    require(content, _COMMIT, "")


def commit_limits(views: int) -> tuple[int, int]:
    """Return the most bytes, and the most values, of the commit of a unit of so many views.

    Each view may be absent, with a row, a reason and a seed, and a few are probed.
    """
    most_bytes = min(MOST_COMMIT, (1 << 18) + 4_000 * views)
    # four marks for an entry of `absent`, and commas in its reason
    most_values = min(MOST_COMMIT_VALUES, 20_000 + 40 * views)
    return most_bytes, most_values


def _check_view_size(where: str, size: Any) -> None:
    """Raise a ValueError if views of a size would have too many pixels; `image` is none."""
    if isinstance(size, str):
        return
    if prod(sides(as_size(size))) > MOST_PIXELS:
        raise ValueError(f"{where}.size is {size}; a view may have {MOST_PIXELS} pixels")


def _check_store(content: Content) -> None:
    """Raise a ValueError if zarr shards are said to hold what only tars hold."""
    if content.get("store", "zarr") == "webdataset":
        return
    seeds_per_unit = content.get("seeds_per_unit", 1)
    if seeds_per_unit > 1:
        raise ValueError(
            f"seeds_per_unit is {seeds_per_unit}; in a zarr store each seed has units of its own:"
            " it must be 1"
        )
    if content.get("has_images"):
        raise ValueError("has_images is true; a zarr store holds no images: it must be false")


def _check_sites(content: Content) -> None:
    """Raise a ValueError if maps are said of a task that has none, or none of one that has."""
    task = content["task"]
    sites = content.get("sites")
    has_maps = gives_maps(task)
    if not has_maps and sites is not None:
        raise ValueError(
            f"sites is {sites}, and its task is {task}, which has no maps: leave it out"
        )
    has_layout = sites is not None or content.get("positions") is not None
    if has_maps and not (has_layout and "stride" in content["teacher"]):
        raise ValueError(
            f"its task is {task}, and it lacks sites or teacher.stride, which say how its maps lie"
        )


def _check_layout(task: str, layout: Layout) -> None:
    """Raise a ValueError if the logits of a task do not lie so."""
    layouts = KINDS[task].layouts
    if layout.kind not in layouts:
        raise ValueError(
            f"its positions are of kind {layout.kind}, and those of its task, {task}, are of kind"
            f" {' or '.join(sorted(layouts))}"
        )


def _check_sizes(content: Content, layout: Layout) -> None:
    """Raise a ValueError if records, chunks, units or a subset do not fit into each other, or
    are beyond the limits."""
    width = record_bytes(content["record_dtype"])
    rows = content["rows"]
    unit_rows = content["unit_rows"]
    chunk_rows = content["chunk_rows"]
    chunk_bytes = content.get("chunk_bytes") or width
    if chunk_bytes > width or unit_rows % chunk_rows:
        raise ValueError(
            f"chunks of {chunk_rows} rows by {chunk_bytes} bytes do not make units of {unit_rows}"
            f" by {width}"
        )
    if "samples" in content and content["samples"]["count"] >= rows:
        count = content["samples"]["count"]
        raise ValueError(f"it is a subset of {count} samples of {rows}; it must be of fewer")
    if "views" in content:
        views = content["views"]
        _require_most_views(views["seeds"], rows, views["view_bytes"])
    num_seeds = content.get("seeds_per_unit", 1)
    num_units = -(-rows // unit_rows)
    num_chunks = unit_rows // chunk_rows * -(-width // chunk_bytes)
    positions = "pixels in a record" if layout.maps else "positions in a record"
    _require_most(layout.num_positions, width, positions)
    _require_most(unit_rows * width * num_seeds, MOST_UNIT_BYTES, "bytes of records in a unit")
    _require_most(num_units, MOST_UNITS, "units of a seed")
    _require_most(num_units * num_seeds, MOST_SHARED_UNITS, "units of the seeds that share them")
    _require_most(num_chunks, MOST_CHUNKS, "chunks of a unit")


def _require_most(size: int, most: int, name: str) -> None:
    if size > most:
        raise ValueError(
            f"there would be {size} {name}; at most {most} are read: choose another unit_rows"
        )


def _require_most_views(seeds: int, rows: int, view_bytes: int) -> None:
    """Raise a ValueError if more views are stored than a cache may keep."""
    size = view_bytes * seeds * rows
    if size > MOST_VIEWS:
        most_seeds = MOST_VIEWS // (view_bytes * rows)
        raise ValueError(
            f"the views that are stored of {rows} samples under {seeds} seeds take {size} bytes; at"
            f" most {MOST_VIEWS} are kept: {most_seeds} seeds of so many samples"
        )


def most_list_bytes(rows: int) -> int:
    """Return the bytes that the list of a source of so many samples may have."""
    name = 256  # of a name on average; a small source may have longer ones
    numbers = 4 + 2 * 4 + 2 * 4  # class, sizes and checksums of an image and a mask
    return min(MOST_LIST, rows * (name + numbers) + (1 << 20))


def most_decoded(num_bytes: int) -> int:
    """Return the bytes that arrays may have which take `num_bytes` compressed."""
    return ANY_RATIO + MOST_RATIO * num_bytes


def check_extent(content: Content) -> None:
    """Raise a ValueError if a request has a value of another type, or an empty span."""
    require(content, _EXTENT, "")
    for name, spans in content.items():
        for first, stop in spans:
            if first >= stop:
                raise ValueError(f"{name} has the span {first} to {stop}, which is empty")


def record_bytes(fields: list[Any]) -> int:
    """Return the bytes of a record with such a `record_dtype`.

    Raises:
        ValueError: anything but numbers and arrays of numbers, or a record that is larger than a
            unit may be.
    """
    names: set[str] = set()
    width = 0
    for field in fields:
        where = f"record_dtype {quoted(field)}"
        if len(field) not in (2, 3):
            raise ValueError(f"{where} is not [name, type] or [name, type, shape]")
        name, kind, *shapes = field
        shape = [1]
        if shapes:
            shape = shapes[0]
        require(name, _NAME, where)
        require(kind, _FIELD_TYPE, where)
        require(shape, Items(range(1, MOST_UNIT_BYTES + 1), 8), where)
        width += int(kind[-1]) * prod(shape)
        names.add(name)
    if len(names) < len(fields) or not 0 < width <= MOST_UNIT_BYTES:
        raise ValueError(
            f"record_dtype has {len(fields)} fields of {width} bytes in all, which make no record"
        )
    return width


def _check_origins(made_by: Any) -> None:
    """Raise a ValueError if what is said of the caches that this one was recoded from cannot be
    read."""
    form = {"codec": _SPEC, "manifest?": _NAME, "made_by": _MADE_BY}
    origin = made_by.get("recoded_from")
    while origin is not None:
        require(origin, form, "made_by.recoded_from")
        origin = origin["made_by"].get("recoded_from")
